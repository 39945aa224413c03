"""What a user of an exported model would write; the export runs it as a script of its own.

It imports nothing of this project. Standard input is JSON: the pipeline's ``task``, its
``settings``, the ``inputs`` and how they are passed (``call``), and its ``processor``'s name
(tokenizer, image_processor); the answers go out as JSON. The
first argument is the model's folder. Where that holds an adapter, ``base`` is the folder of the
model that it goes onto, and ``auto`` the class that loads that one.
"""

import json
import sys
from typing import Any

import transformers
from peft import PeftModel
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedModel,
    pipeline,
)

PROCESSORS: dict[str, Any] = {"tokenizer": AutoTokenizer, "image_processor": AutoImageProcessor}


def with_adapter(folder: str, base: str, auto: str) -> PreTrainedModel:
    """Load the base model with the adapter's labels or stops, and put the adapter onto it."""
    config = AutoConfig.from_pretrained(folder)
    model = getattr(transformers, auto).from_pretrained(base, config=config, dtype="float32")
    if model.can_generate():
        model.generation_config = GenerationConfig.from_pretrained(folder)
    adapted = PeftModel.from_pretrained(model, folder).get_base_model()
    assert isinstance(adapted, PreTrainedModel)
    return adapted


def main() -> None:
    """Answer for the inputs of standard input."""
    asked, folder = json.load(sys.stdin), sys.argv[1]
    processor = PROCESSORS[asked["processor"]].from_pretrained(folder)
    answer = pipeline(
        asked["task"],
        model=with_adapter(folder, asked["base"], asked["auto"]) if asked["base"] else folder,
        **{asked["processor"]: processor},
        **asked["settings"],
    )
    # Some pipelines look at the first input before they count them.
    answers = answer(asked["inputs"], **asked["call"]) if asked["inputs"] else []
    json.dump(answers, sys.stdout, default=_plain)


def _plain(number: Any) -> float | int:
    """A number of numpy's as one of Python's."""
    value: float | int = number.item()
    return value


if __name__ == "__main__":
    main()

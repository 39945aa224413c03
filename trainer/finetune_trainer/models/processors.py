"""What turns a row's input into a model's: a tokenizer, or an image processor.

Every step loads it here, so that all of them read alike.
"""

from pathlib import Path
from typing import Any

from transformers import (
    AutoImageProcessor,
    BaseImageProcessor,
    PreTrainedConfig,
    PreTrainedTokenizerBase,
)

from finetune_api.run import Run
from finetune_trainer.errors import UsageError
from finetune_trainer.models.check import check_lengths, load_tokenizer
from finetune_trainer.models.fit import require_same_padding
from finetune_trainer.models.heads import Head

Processor = PreTrainedTokenizerBase | BaseImageProcessor

_FILE = "preprocessor_config.json"


def load_processor(folder: Path, uri: str, head: Head) -> Processor:
    """Load what goes with a model that has this head.

    Raises
    ------
    UsageError
        If there is none, or none that can be used.
    """
    if head.sees:
        return load_image_processor(folder, uri)
    return load_tokenizer(folder, uri, of_words=head.reads_words)


def load_image_processor(folder: Path, uri: str) -> BaseImageProcessor:
    """Load an image processor in its form for Pillow and NumPy, which is the same on any machine.

    Raises
    ------
    UsageError
        If there is none, or none that can be used.
    """
    where = f"model.uri: {uri}"
    if not (folder / _FILE).is_file():
        raise UsageError(
            f"{where}: it has no image processor ({_FILE}); save the model's processor into the "
            "folder with save_pretrained"
        )
    try:
        loaded: Any = AutoImageProcessor.from_pretrained(  # type: ignore[no-untyped-call]
            folder, backend="pil", local_files_only=True, trust_remote_code=False
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ImportError) as error:
        raise UsageError(
            f"{where}: its image processor can't be loaded ({type(error).__name__}); save it anew "
            "with save_pretrained"
        ) from error
    if getattr(loaded, "backend", "pil") != "pil" or not isinstance(loaded, BaseImageProcessor):
        raise UsageError(
            f"{where}: {type(loaded).__name__} works with torchvision alone; take a model whose "
            "image processor has a form for Pillow"
        )
    return loaded


def check_processor(config: PreTrainedConfig, processor: Processor, run: Run) -> None:
    """Hold what the processor makes against what the model takes, as far as a config tells.

    Raises
    ------
    UsageError
        If they are not of one model, or rows may be longer than it can read.
    """
    uri = run.model.uri
    if isinstance(processor, PreTrainedTokenizerBase):
        check_lengths(config, processor, uri, tokens_of(run))
        require_same_padding(uri, config, processor)
        return
    channels = getattr(config, "num_channels", 3)
    if channels != 3:
        raise UsageError(
            f"model.uri: {uri}: it reads {channels} channels, and a pipeline gives every image "
            "three; take a model with num_channels 3"
        )


def tokens_of(run: Run) -> int:
    """Tokens of the longest example of a run on texts.

    Raises
    ------
    UsageError
        If the run states none.
    """
    if run.training.max_length is None:
        raise UsageError("training.maxLength is not resolved: a task on texts needs it")
    return run.training.max_length

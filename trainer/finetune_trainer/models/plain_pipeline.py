"""What a user of an exported model would write; the export runs it as a script of its own.

It imports nothing of this project. Standard input is JSON: the pipeline's ``task``, its
``settings``, the ``inputs`` and how they are passed (``call``); the answers go out as JSON. The
first argument is the model's folder.
"""

import json
import sys
from typing import Any

from transformers import pipeline


def main() -> None:
    """Answer for the inputs of standard input."""
    asked = json.load(sys.stdin)
    answer = pipeline(asked["task"], model=sys.argv[1], **asked["settings"])
    json.dump(answer(asked["inputs"], **asked["call"]), sys.stdout, default=_plain)


def _plain(number: Any) -> float | int:
    """A number of numpy's as one of Python's."""
    value: float | int = number.item()
    return value


if __name__ == "__main__":
    main()

"""What a user of an exported model would write; the export runs it as a script of its own.

It imports nothing of this project: texts come in on standard input as a JSON list, and each text's
classes with their scores go out as JSON. The first argument is the model's folder.
"""

import json
import sys

from transformers import pipeline


def main() -> None:
    """Classify the texts of standard input."""
    classify = pipeline("text-classification", model=sys.argv[1], top_k=None)
    json.dump(classify(json.load(sys.stdin), truncation=True), sys.stdout)


if __name__ == "__main__":
    main()

"""The addresses that a manifest may name, as CEL says it: one place for the schemes."""

from finetune_api.markers import NAME_FORM

CLAIM_URI = f"pvc://{NAME_FORM}/.+"
REPOSITORY = "[A-Za-z0-9][-._A-Za-z0-9]*/[A-Za-z0-9][-._A-Za-z0-9]*"
"""Of the Hugging Face Hub."""
_AT_COMMIT = f"{REPOSITORY}@[0-9a-f]{{40}}"
HUB_MODEL_URI = f"hf://{_AT_COMMIT}"
"""A model on the Hugging Face Hub, at a commit: a branch may be another model tomorrow."""
_HUB_FILE_URI = f"hf://datasets/{_AT_COMMIT}/.+"
URI_RULE = (
    f"!self.contains('://') || self.matches('^({CLAIM_URI}|(https|s3|gs)://.+|{_HUB_FILE_URI})')"
)
SOURCES = (
    "pvc://CLAIM/PATH, https://…, s3://…, gs://… or hf://datasets/OWNER/NAME@COMMIT/FILE (a "
    "commit's 40 digits), or in a local run a path"
)
"""What a dataset's address may be, in words."""

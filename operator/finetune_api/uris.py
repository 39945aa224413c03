"""The addresses that a manifest may name, as CEL says it: one place for the schemes."""

from finetune_api.markers import NAME_FORM

SUPPORTED_SCHEMES = ("pvc", "https", "s3")
CLAIM_URI = f"pvc://{NAME_FORM}/.+"
URI_RULE = f"!self.contains('://') || self.matches('^({CLAIM_URI}|(https|s3)://.+)')"

"""A finished model on rows of anybody's: `finetune predict`."""

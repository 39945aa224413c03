"""Models: whether one fits its task, its facts, loading, LoRA, export and publishing."""

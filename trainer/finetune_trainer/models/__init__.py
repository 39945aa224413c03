"""Models: whether one fits its task, and its facts."""

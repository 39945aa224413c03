"""The train step: launcher, ranks, the Trainer subclass, checkpoints and the collective stop."""

"""What a trainer process says about itself: progress, metrics, the termination message."""

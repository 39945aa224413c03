"""What the trainer does for each task: one file per task, put together from parts."""

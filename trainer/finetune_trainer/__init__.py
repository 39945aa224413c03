"""The trainer: what runs in the pods of a job. `finetune-trainer prepare | train | evaluate`."""

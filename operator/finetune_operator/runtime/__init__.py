"""The operator's process: watches, work queue, leader election, health and metrics."""

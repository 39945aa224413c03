"""Pure: ``Observed`` to ``Decision``. No await, no clock, no client, no randomness."""

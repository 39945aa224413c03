"""The evaluate step: test rows scored by model and baselines, intervals, gate, report."""

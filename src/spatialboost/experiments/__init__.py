"""Whole experiments: what the demo, the benchmarks and the proof page have in common.

Open `experiment.py` first: a run and its controls, with seeds and probes, and one result. `coverage.py` holds a model
to what boosting promises. This folder imports all the others; the demo, the command line and benchmarks import it.
"""

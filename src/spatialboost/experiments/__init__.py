"""Complete experiments, as used by the demo and the benchmarks.

Open `experiment.py` first: it trains a run and its controls with several seeds, runs probes, and returns one result.
`coverage.py` checks that `boost` works correctly on one model. This folder imports all others; the demo, the command
line and the benchmarks import it.
"""

"""The benchmarks, one file each: where their files are, how they ask, how they score.

The wording of each prompt and each rule of scoring follow the benchmark's own code or lmms-eval's task; the tests
compare them. `vsi_bench.py` is the one to read first.
"""

"""Complete experiments, as used by the demo, the proof and the benchmarks.

Open `experiment.py` first: it trains a run and its controls with several seeds, runs probes, and returns one result.

- `page.py`, `changes.py`, `verdict.py`: an experiment as a page, a picture and a sentence; `chosen_encoder.py`: an
  encoder of the user's for the demo.
- `proof_file.py`, `proof.py`, `proof_page.py`, `proof_command.py`: many ways to train one encoder, from a YAML file;
  those that come with the library are in `proofs/`.
- `coverage.py`, `coverage_table.py`: whether `boost` works correctly on one model.

This folder imports all others; the demo, the command line and the benchmarks import it.
"""

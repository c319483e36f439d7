"""Control: a small policy on frozen features imitates an expert in a simulator, and its success is counted.

Open `probe.py` first. `simulator.py` says what a task is and has the table of all tasks; `fetch.py` and `meta_world.py`
are the simulators; `demonstrations.py` records experts and keeps the frames; `policy.py` is what is trained.
"""

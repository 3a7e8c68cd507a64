"""The battery: faults by the thousand, and what became of them, as figures.

`python -m tests.battery` runs every group and writes `docs/reliability.md`; `test_battery.py` runs a little of each.
A group is one file with a function `run(count, seed, place)` that returns figures.
"""

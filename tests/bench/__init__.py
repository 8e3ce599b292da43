"""Benchmarks on a real Noria. `python -m tests.bench` lists them, `python -m tests.bench NAME` runs one.

Each asserts that the work it measured was done right, and never how long it took.
"""

"""Benchmarks: `python -m benchmarks` prints the report; `pytest benchmarks --benchmark-only` runs the same cases."""

"""The CPU benchmarks: `python -m benchmarks --help`."""

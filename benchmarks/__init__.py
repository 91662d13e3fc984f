"""Measures recommenders: scenarios, statistics, result rows and reports. `python -m benchmarks.run --help`."""

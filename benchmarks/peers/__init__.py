"""The same models in other libraries, with the same weights, inputs and batch. `python -m benchmarks.peers --help`."""

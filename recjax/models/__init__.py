"""One model and its Config a file."""

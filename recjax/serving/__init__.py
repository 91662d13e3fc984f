"""Models compiled ahead of time, ready to answer requests."""

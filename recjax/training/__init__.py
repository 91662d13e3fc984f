"""Optimizer, step, fit, checkpoint, and the way from an experiment to a final model."""

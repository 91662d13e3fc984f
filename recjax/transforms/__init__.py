"""Quantize, prune, shrink, precision; and `chain`, which composes them."""

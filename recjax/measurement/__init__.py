"""What samples say and with what certainty, and what the machine did while they were taken; no module imports JAX."""

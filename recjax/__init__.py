"""Recommender models in JAX: train, transform, serve and measure them on CPU, GPU and TPU."""

"""Layers: embedding, interaction, attention, MLP."""

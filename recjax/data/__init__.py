"""Sources become Interactions, Interactions become splits, splits become batches."""

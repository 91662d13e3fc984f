"""Small programs for maintainers: packing data, taking the report's picture."""

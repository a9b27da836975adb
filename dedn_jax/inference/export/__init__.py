"""A run's model as a file for others: one module a format."""

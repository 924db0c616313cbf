"""Training objectives: heads, corruption of the batch, and losses as sums per row."""

"""Which expert computes which position."""

"""Placements of norms and residual connections around a mixer and a feed-forward."""

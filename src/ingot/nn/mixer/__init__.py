"""Layers that mix positions."""

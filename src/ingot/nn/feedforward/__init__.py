"""Layers that mix channels, position by position."""

"""Stacks of blocks."""

"""Stores: prepared tokens on disk, read through memory maps."""

"""Slot parallel.layout: where parameters and rows live."""

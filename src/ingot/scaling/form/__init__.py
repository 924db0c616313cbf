"""Scaling laws: one functional form per file."""

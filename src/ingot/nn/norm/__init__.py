"""Normalizations over the last axis."""

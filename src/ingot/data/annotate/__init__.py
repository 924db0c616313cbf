"""Columns that are found, not given: units of sound."""

"""Layers: every slot of a model has a folder here; ``context`` is what they are called with."""

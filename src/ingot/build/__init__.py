"""The composition root: a recipe becomes a run."""

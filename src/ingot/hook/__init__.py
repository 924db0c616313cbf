"""Hooks, one per file: act in the step at one of three moments (see core.seams.Hook)."""

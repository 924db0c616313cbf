"""Evaluators: one measure of a model per file; none of them disturbs training."""

"""Hugging Face checkpoints in and out, one mapping per family."""

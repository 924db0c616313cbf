"""Stacks that attend to an encoder's output."""

"""Fast kernels, each beside its plain reference. Imports nothing of ingot."""

"""Initial values, and the learning rates that belong to them."""

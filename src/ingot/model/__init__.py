"""The graph of five components, its stacks, its initial values, and generation from it."""

"""Where parameters and rows live, and how gradients cross ranks."""

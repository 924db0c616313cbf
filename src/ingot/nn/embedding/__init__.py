"""Values to vectors: the first component of the graph."""

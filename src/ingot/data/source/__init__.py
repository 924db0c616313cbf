"""Sources: where documents and rows come from."""

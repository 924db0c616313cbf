"""The loop, its state, checkpoints and the anomaly guard; names no concrete part."""

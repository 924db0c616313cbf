"""Data: documents to tokens to rows, seekable at any row."""

"""Packing: documents to rows of a fixed length."""

"""Ways to tell positions apart: added to the embedding, or turned into queries and keys."""

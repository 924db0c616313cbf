"""Projections: every learned matrix of mixers, feed-forwards and heads comes from this slot."""

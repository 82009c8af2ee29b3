"""LayerNorm, token shift and the mixes that feed the matrix products."""

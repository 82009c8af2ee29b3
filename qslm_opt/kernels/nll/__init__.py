"""Negative log likelihood over a vocabulary, logits in parts."""

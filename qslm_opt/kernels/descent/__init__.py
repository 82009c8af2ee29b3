"""Choosing codes under a quadratic error, one column after another: every row on its own."""

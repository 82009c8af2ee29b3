"""Products with weights that stay packed: codes in memory, dequantized where they are read."""

"""Evaluating settings: memory by arithmetic, the metric by running the model."""

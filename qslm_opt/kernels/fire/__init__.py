"""Neurons over a time axis of their own: LIF and IF over S steps, and ternary spikes."""

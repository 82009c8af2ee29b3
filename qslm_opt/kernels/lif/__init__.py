"""The LIF scan: leaky integrate-and-fire neurons along the token axis, hard reset to 0."""

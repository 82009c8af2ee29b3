"""Power, energy and memory while a setting runs: measured or null, never estimated."""

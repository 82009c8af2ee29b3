"""Parts of a screen that know how to paint themselves, and nothing of the storage."""

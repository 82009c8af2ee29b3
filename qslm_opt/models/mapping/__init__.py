"""A mapping file: TOML that lets any torch module be searched, without a family of its own."""

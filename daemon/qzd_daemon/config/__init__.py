"""Describe qzd.toml and read it."""

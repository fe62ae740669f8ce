"""Fetch, verify and unpack published models."""

"""Helpers that tests of every component share."""

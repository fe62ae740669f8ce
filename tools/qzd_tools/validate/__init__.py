"""Measure accuracy and compare it with gates."""

"""Recognise what a model's outputs mean."""

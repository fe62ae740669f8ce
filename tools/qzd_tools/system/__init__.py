"""Describe this machine and its instruction set."""

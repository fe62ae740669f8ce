"""Bind, authenticate, limit and watch sockets."""

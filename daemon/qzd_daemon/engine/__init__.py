"""Decide which frame runs where and when: streams, queues, scheduler, models."""

"""Measure throughput, latency and memory of models."""

"""Inspect, walk and save OpenVINO graphs."""

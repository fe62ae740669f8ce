"""Speak the protocol on bound sockets: publisher, control, inference, ingest, replay."""

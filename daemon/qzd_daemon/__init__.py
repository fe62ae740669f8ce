"""Frames to messages: the service that runs detectors and publishes what they find, and its client.

Modules, in the order in which data passes them: `sources` read frames, `streams` run a thread for each,
`mailbox` holds what waits, `scheduler` gives it to a model (`models`), `pipeline` makes messages (`wire`)
in frame order, `publisher` sends them. `service` puts the parts together. `client` and `events` are the
other end of the socket, and need pyzmq and msgspec alone.
"""

"""Frames to messages: the service that runs detectors and publishes what they find, and its client.

Modules, in the order in which data passes them: `sources` read frames, `streams` run a thread for each,
`mailbox` holds what waits, `scheduler` gives it to a model (`models`), `pipeline` makes messages (`wire`)
in frame order, `publisher` sends them. `control` answers calls (`calls`) by what `operations` can do,
`inference` takes images that others send to a model's `desk`, and `ingest` those for a stream, whose source
is in `sent`; both let `reception` answer. Every socket is opened in `door`, which asks for `keys`. `config`
is what may be configured, and `configfile` reads it. `service` puts the parts together.

The other end needs pyzmq and msgspec alone: `client` subscribes (`session`, `events`), `caller` asks,
`sender` sends frames, `reach` connects; `ctl` and `commands` are that for a person, `recording` keeps
messages in a file.
"""

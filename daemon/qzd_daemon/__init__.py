"""The service `qzd`, which runs detectors and publishes what they find, and the operator's command `qzdctl`.

`docs/architecture.md` describes the packages and the way of a frame through them.
"""

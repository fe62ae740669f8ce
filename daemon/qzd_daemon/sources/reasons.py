"""Why a camera cannot be read, in words and with what to do about it."""

from __future__ import annotations

import re

from qzd_daemon.sources.damage import Messages

__all__ = ["REDIRECTED", "describe"]

REDIRECTED = "it redirects to another address, which is not followed: put that one into `source`"

REASONS = tuple(
    (re.compile(pattern, re.IGNORECASE), reason)
    for pattern, reason in (
        ("resolve hostname|name or service not known|name resolution", "its host name is unknown"),
        ("connection refused", "Connection refused: nothing listens at this address and port"),
        ("no route to host|network is unreachable", "there is no route to it"),
        ("401|unauthorized", "it refuses the user or the password (401): see user and password_file"),
        ("403|forbidden", "it forbids access (403)"),
        ("404|not found", "it has no such stream (404): correct the path of the URL"),
        ("453", "it has not enough bandwidth (453): it serves no further viewer"),
        ("461", 'it does not send over this transport (461): try rtsp_transport = "udp"'),
        ("certificate", "its certificate is not valid"),
        ("redirect", REDIRECTED),
        ("whitelist", "what it answers is not a video stream, or leads elsewhere"),
    )
)


def describe(error: Exception, said: Messages = ()) -> str:
    """Return why a camera cannot be read.

    Parameters
    ----------
    error : Exception
        What FFmpeg returned.
    said : sequence
        What FFmpeg logged, which often says more.
    """
    logged = [" ".join(text.split()) for _, _, text in said]
    plain = getattr(error, "strerror", None) or str(error)
    for text in (*logged, plain):
        for pattern, reason in REASONS:
            if pattern.search(text):
                return reason
    return ": ".join((plain, *logged[-1:]))

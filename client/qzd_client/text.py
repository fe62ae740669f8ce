"""Make text from outside safe to print: names of files, labels and reasons that others chose."""

from __future__ import annotations

__all__ = ["printable"]


def printable(text: str, *, keep: str = "") -> str:
    r"""Escape what is not printable, which a terminal would obey or a log would break at.

    Parameters
    ----------
    text : str
    keep : str
        Characters that stay as they are, such as a newline.

    Examples
    --------
    >>> printable("car\x1b[2J")
    'car\\x1b[2J'
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in keep else _escaped(c) for c in text)


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode()

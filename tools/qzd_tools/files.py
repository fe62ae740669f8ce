"""Files that are there whole or not at all.

What may live here: how a file is put on the disk. A bundle's directory is `qzd_ext.bundle`'s.
"""

from __future__ import annotations

from pathlib import Path

__all__ = ["write_whole"]


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that it is there whole or as it was.

    Raises
    ------
    OSError
        It cannot be written; the error names the file, which a full disk does not.
    """
    temporary = path.with_name(f".{path.name}.part")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        temporary.unlink(missing_ok=True)

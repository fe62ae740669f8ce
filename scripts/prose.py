"""Find words in comments, docstrings, messages and pages that plain English does without.

    python scripts/prose.py [--all] [PATH...]

Without paths it reads every *.py, *.pyi, *.pyx, *.pxd and *.md that git knows, except those that
`[tool.prose] later` in pyproject.toml names; with --all those too.
"""

from __future__ import annotations

import argparse
import ast
import io
import re
import subprocess
import sys
import tokenize
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

__all__ = ["BANNED", "Finding", "findings"]

ROOT = Path(__file__).resolve().parent.parent
COUNTED = (
    "bytes|boxes|calls|files|frames|images|inferences|lines|messages|pictures|requests|threads|times|values"
)
EACH = (
    "box|camera|cell|channel|class|day|frame|hour|image|minute|model|picture|request|scale|second|"
    "stream|thread"
)
THINGS = (
    "archive|box|bundle|bundles|choice|dictionary|directory|entry|event|failure|file|files|folder|frame|frames|"
    "grid|head|image|images|key|keys|link|list|message|messages|model|name|number|numbers|part|path|picture|"
    "socket|table|text|version|video|word"
)

BANNED = tuple(
    (re.compile(rf"\b({words})\b", re.IGNORECASE), instead)
    for words, instead in {
        "doors?|entrances?": "listener, bound socket",
        "desks?|receptions?": "request server, request lane",
        "mailbox(?:es)?": "queue",
        "heed(?:s|ed|ing)?": "handle, follow",
        "praise(?:s|d)?": "report",
        "whoever|whosoever": "the one that, who",
        "shall": "the present tense",
        "let(?:s|ting)? go": "close, release",
        "but for": "except, without",
        "any ?more(?! than)": "no longer",
        "so many": "the number",
        "alone": "only",
        rf"(?<!there )(?:is|are|was|were) no (?:{THINGS})": "is not a",
        rf"(?:{COUNTED}|[kMG]?B|FPS) an? (?:{EACH})": "per",
        r"(?:is|are|was|were) not there": "does not exist, is not available",
    }.items()
)
"""What to find, and what to write instead."""
ALLOWED = re.compile(r"\b(?:(?:leave|leaves|leaving|left|let)\b[\w\s`]{0,40}|stands? )alone\b", re.IGNORECASE)
"""What looks like a banned word and is none."""
QUOTED = re.compile(r"^(```|~~~).*?^\1|`[^`\n]+`|\"[^\"\n]+\"", re.MULTILINE | re.DOTALL)
CYTHON_PROSE = re.compile(r'"""(?:.|\n)*?"""|#.*|"[^"\n]*"')


class Finding(NamedTuple):
    """A line, the words that were found in it, and what to write instead."""

    line: int
    words: str
    instead: str


def _blank(match: re.Match[str]) -> str:
    """Return the line ends of what is left out, so that lines keep their numbers."""
    return "\n" * match[0].count("\n")


def _python(text: str) -> Iterator[tuple[int, str]]:
    """Yield every comment and string of a module, with its line."""
    yield from _comments(text)
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.lineno, node.value


def _tests(text: str) -> Iterator[tuple[int, str]]:
    """Yield every comment and docstring of a module; its other strings quote messages and make up input."""
    yield from _comments(text)
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            yield node.lineno, str(node.value.value)


def _comments(text: str) -> Iterator[tuple[int, str]]:
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string


def _cython(text: str) -> Iterator[tuple[int, str]]:
    """Yield every comment and string of a Cython source, with its line."""
    for match in CYTHON_PROSE.finditer(text):
        yield text.count("\n", 0, match.start()) + 1, match[0]


def _markdown(text: str) -> Iterator[tuple[int, str]]:
    """Yield the page without its code and what it quotes."""
    yield 1, QUOTED.sub(_blank, text)


READERS = {".md": _markdown, ".py": _python, ".pyi": _python, ".pyx": _cython, ".pxd": _cython}


def findings(path: Path) -> list[Finding]:
    """Find every banned word in a file, by line."""
    read = _tests if path.is_relative_to(ROOT / "tests") else READERS[path.suffix]
    found = [
        Finding(line + text.count("\n", 0, match.start()), match[0], instead)
        for line, prose in read(path.read_text())
        for text in [ALLOWED.sub(_blank, prose)]
        for banned, instead in BANNED
        for match in banned.finditer(text)
    ]
    return sorted(set(found))


def _files() -> list[Path]:
    """List what git knows and can be read, relative to the root."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    paths = [Path(line) for line in listed.stdout.splitlines()]
    return [path for path in paths if path.suffix in READERS and path != Path("scripts/prose.py")]


def _later(path: Path) -> bool:
    """Tell whether a file is on the list of those that are rewritten later."""
    later = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["prose"]["later"]
    return any(path.is_relative_to(entry) for entry in later)


def main() -> None:
    """Print what was found, and exit with 1 if that is anything."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--all", action="store_true", help="files that are to be rewritten later, too")
    parser.add_argument("paths", nargs="*", type=Path)
    options = parser.parse_args()
    paths = options.paths or [path for path in _files() if options.all or not _later(path)]
    found = [(path, finding) for path in paths for finding in findings(ROOT / path)]
    for path, finding in found:
        print(f"{path}:{finding.line}: {finding.words!r}. Write: {finding.instead}")
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()

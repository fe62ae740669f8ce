"""Words that plain English does without are found in prose, and nowhere else."""

from __future__ import annotations

from pathlib import Path

import pytest

import prose


def words_of(tmp_path: Path, name: str, text: str) -> list[tuple[int, str]]:
    path = tmp_path / name
    path.write_text(text)
    return [(finding.line, finding.words) for finding in prose.findings(path)]


@pytest.mark.parametrize(
    ("sentence", "words"),
    [
        ("Frames wait in the mailbox.", "mailbox"),
        ("Whoever asks is answered.", "Whoever"),
        ("It publishes 20 frames a second.", "frames a second"),
        ("One thread takes 4 MB a stream.", "MB a stream"),
        ("A file that is no image is refused.", "is no image"),
        ("It sends sound alone.", "alone"),
        ("The camera is not there.", "is not there"),
        ("The socket is let go of.", "let go"),
        ("All but for one end.", "but for"),
    ],
)
def test_findings_name_the_words_and_their_line(tmp_path: Path, sentence: str, words: str) -> None:
    assert words_of(tmp_path, "page.md", f"# Page\n\n{sentence}\n") == [(3, words)]


@pytest.mark.parametrize(
    "sentence",
    [
        "It leaves the other files alone.",
        "The page stands alone.",
        "There is no image.",
        "A second frame starts a thread.",
        "It takes any more than ten.",
        'Write "only" rather than "alone".',
        "The flag `--shall` exists.",
    ],
)
def test_findings_pass_over_what_only_looks_like_it(tmp_path: Path, sentence: str) -> None:
    assert words_of(tmp_path, "page.md", sentence) == []


def test_findings_when_a_page_has_code_keep_the_numbers_of_its_lines(tmp_path: Path) -> None:
    assert words_of(tmp_path, "page.md", "```\nshall\nshall\n```\nIt shall.\n") == [(5, "shall")]


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("module.py", 'door = 1\n# the door\nprint("a desk")\n\n\ndef f():\n    """Heed."""\n'),
        ("module.pyx", 'cdef int door = 1\n# the door\nprint("a desk")\n\n\ndef f():\n    """Heed."""\n'),
    ],
)
def test_findings_in_source_read_comments_and_strings_and_no_names(
    tmp_path: Path, name: str, source: str
) -> None:
    assert words_of(tmp_path, name, source) == [(2, "door"), (3, "desk"), (7, "Heed")]

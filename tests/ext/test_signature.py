"""Signatures are minisign's: what one program signs, the other verifies."""

from __future__ import annotations

import base64
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from nacl.signing import SigningKey

from qzd_ext import bundle, signature
from qzd_ext.errors import BundleError, DataError
from qzd_ext.signature import SecretKey
from support.tiny_model import write_tiny_bundle

SECRET = SecretKey(b"12345678", SigningKey(bytes(range(32))))
OTHER = SecretKey(b"87654321", SigningKey(bytes(32)))
TEXT = b"schema = 1\n"


def _write_public(directory: Path, name: str, secret: SecretKey) -> Path:
    """Write a public key as minisign does."""
    directory.mkdir(exist_ok=True)
    content = base64.b64encode(b"Ed" + secret.number + bytes(secret.key.verify_key))
    (directory / f"{name}.pub").write_bytes(b"untrusted comment: key\n" + content + b"\n")
    return directory


def _minisign(*words: str | Path, text: str = "") -> subprocess.CompletedProcess[str]:
    if shutil.which("minisign") is None:
        pytest.skip("minisign is not installed")
    return subprocess.run(["minisign", *words], input=text, capture_output=True, text=True, check=False)


def test_a_signature_names_its_key(tmp_path: Path) -> None:
    keys = signature.read_keys(_write_public(tmp_path, "alice", SECRET))
    signed = signature.sign(TEXT, SECRET, "a bundle")
    assert signature.verify(TEXT, signed, keys, "b") == "alice"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.replace(b"a bundle", b"another "), "is not of this"),
        (lambda s: s.replace(b"trusted comment: a", b"trusted: a"), "four lines"),
        (lambda s: s.splitlines(True)[0] + s, "is not a signature"),
        (lambda s: b"\n".join([*s.splitlines()[:3], s.splitlines()[3][:-4] + b"AAA="]), "is not"),
        (lambda s: s.replace(s.splitlines()[1], s.splitlines()[1][:-4]), "bytes instead of 74"),
        (lambda _: b"", "four lines"),
        (lambda _: b"\xff" * 100, "not a signature"),
    ],
)
def test_a_changed_signature_is_refused(
    tmp_path: Path, change: Callable[[bytes], bytes], message: str
) -> None:
    keys = signature.read_keys(_write_public(tmp_path, "alice", SECRET))
    with pytest.raises(BundleError, match=message):
        signature.verify(TEXT, change(signature.sign(TEXT, SECRET, "a bundle")), keys, "b")


def test_a_signature_of_another_text_or_key_is_refused(tmp_path: Path) -> None:
    keys = signature.read_keys(_write_public(tmp_path, "alice", SECRET))
    with pytest.raises(BundleError, match="the signature of alice is not of this"):
        signature.verify(TEXT + b" ", signature.sign(TEXT, SECRET, ""), keys, "b")
    with pytest.raises(BundleError, match="key 3132333435363738, which is not among"):
        signature.verify(TEXT, signature.sign(TEXT, OTHER, ""), keys, "b")


def test_minisign_verifies_what_is_signed_here(tmp_path: Path) -> None:
    _write_public(tmp_path, "alice", SECRET)
    (tmp_path / "f").write_bytes(TEXT)
    (tmp_path / "f.minisig").write_bytes(signature.sign(TEXT, SECRET, "of a bundle"))
    done = _minisign("-V", "-p", tmp_path / "alice.pub", "-m", tmp_path / "f")
    assert done.returncode == 0, done.stderr
    assert "of a bundle" in done.stdout


@pytest.mark.parametrize(
    ("prehashed", "password"),
    [
        (["-H"], None),
        (["-l"], None),
        pytest.param(["-H"], "open sesame", marks=pytest.mark.system),  # each try takes seconds and a GiB
    ],
    ids=["prehashed", "legacy", "password"],
)
def test_what_minisign_signs_is_verified_here(
    tmp_path: Path, prehashed: list[str], password: str | None
) -> None:
    public, secret = tmp_path / "bob.pub", tmp_path / "bob.key"
    words = ["-W"] if password is None else []
    made = _minisign("-G", "-p", public, "-s", secret, *words, text=f"{password}\n" * 2)
    if made.returncode != 0:
        pytest.skip("minisign asks for passwords only at a terminal")
    (tmp_path / "f").write_bytes(TEXT)
    done = _minisign("-S", *prehashed, "-s", secret, "-m", tmp_path / "f", text=f"{password}\n")
    assert done.returncode == 0, done.stderr
    signed = (tmp_path / "f.minisig").read_bytes()
    assert signature.verify(TEXT, signed, signature.read_keys(tmp_path), "b") == "bob"
    ours = signature.sign(TEXT, signature.read_secret_key(secret, password), "ours")
    assert signature.verify(TEXT, ours, signature.read_keys(tmp_path), "b") == "bob"
    if password is not None:
        with pytest.raises(DataError, match="it has a password"):
            signature.read_secret_key(secret, None)
        with pytest.raises(DataError, match="the password is wrong"):
            signature.read_secret_key(secret, "wrong")


@pytest.mark.parametrize("content", [b"", b"one line", b"comment\nnot base64!", b"comment\n" + b"QUJD"])
def test_what_is_not_a_key_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.pub").write_bytes(content)
    with pytest.raises(DataError, match=r"x\.pub: not a public key"):
        signature.read_keys(tmp_path)
    with pytest.raises(DataError, match=r"x\.pub: not a secret key"):
        signature.read_secret_key(tmp_path / "x.pub", None)


def test_a_directory_without_keys_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no key here"):
        signature.read_keys(tmp_path)


def test_read_with_keys_takes_only_a_signed_bundle(tmp_path: Path) -> None:
    keys = _write_public(tmp_path / "keys", "alice", SECRET)
    path = write_tiny_bundle(tmp_path / "b")
    with pytest.raises(BundleError, match="not signed"):
        bundle.read(path, keys=keys)
    text = (path / bundle.MANIFEST).read_bytes()
    (path / signature.SIGNATURE).write_bytes(signature.sign(text, SECRET, ""))
    assert bundle.read(path, keys=keys).signer == "alice"
    assert bundle.read(path).signer == ""
    (path / bundle.MANIFEST).write_bytes(b"not even TOML" + text)
    with pytest.raises(BundleError, match=r"is not of this bundle\.toml"):
        bundle.read(path, keys=keys)

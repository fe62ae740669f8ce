"""Signatures of bundles: Ed25519 over bundle.toml, in the format of minisign, which verifies them too.

Source: https://jedisct1.github.io/minisign. A signature names its key by a number of eight bytes; it may be
prehashed with BLAKE2b (`ED`) or not (`Ed`), and covers its trusted comment.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from dataclasses import dataclass, field
from pathlib import Path

from nacl.exceptions import BadSignatureError
from nacl.pwhash import scrypt
from nacl.signing import SigningKey, VerifyKey

from qzd_ext.errors import BundleError, DataError
from qzd_ext.files import read_file

__all__ = ["SIGNATURE", "SecretKey", "key_number", "read_keys", "read_secret_key", "sign", "verify"]

SIGNATURE = "bundle.toml.minisig"
MAX_BYTES = 4096  # of a key or a signature
MAX_KEYS = 1000
PLAIN, PREHASHED = b"Ed", b"ED"
SCRYPT, NO_KDF, CHECKSUM = b"Sc", b"\0\0", b"B2"
TRUSTED = "trusted comment: "
UNTRUSTED = "untrusted comment: "


@dataclass(frozen=True, slots=True)
class PublicKey:
    """A key that may have signed a bundle; `name` is its file's, without `.pub`."""

    name: str
    number: bytes
    key: VerifyKey


@dataclass(frozen=True, slots=True)
class SecretKey:
    """A key to sign with."""

    number: bytes
    key: SigningKey = field(repr=False)


@dataclass(frozen=True, slots=True)
class _Signature:
    algorithm: bytes
    number: bytes
    signature: bytes
    comment: str
    of_comment: bytes


def read_keys(directory: Path) -> dict[bytes, PublicKey]:
    """Read the public keys `*.pub` of a directory, by their numbers.

    Raises
    ------
    DataError
        The directory cannot be read or has no key, or a file is not a key.
    """
    try:
        paths = sorted(directory.glob("*.pub"))[:MAX_KEYS]
        keys = [_read_public_key(path) for path in paths]
    except OSError as error:
        raise DataError(f"{directory}: cannot be read: {error.strerror}") from error
    if not keys:
        raise DataError(f"{directory}: no key here", wanted="public keys of minisign, *.pub")
    return {key.number: key for key in keys}


def _read_public_key(path: Path) -> PublicKey:
    try:
        content = _decode(read_file(path, MAX_BYTES).splitlines()[1], 42)
        if content[:2] != PLAIN:
            raise ValueError("it is of another kind")
    except (ValueError, IndexError) as error:
        raise DataError(
            f"{path}: not a public key: {error}",
            wanted="the .pub file that `minisign -G` writes",
            fix="remove it, or copy the key again",
        ) from error
    return PublicKey(path.stem, content[2:10], VerifyKey(content[10:]))


def verify(text: bytes, signature: bytes, keys: dict[bytes, PublicKey], where: str) -> str:
    """Check the signature of a bundle.toml.

    Parameters
    ----------
    text : bytes
        The content of bundle.toml, which is not parsed.
    signature : bytes
        The content of bundle.toml.minisig.
    keys : dict
        From `read_keys`.
    where : str
        The bundle, for messages.

    Returns
    -------
    str
        The name of the key that has signed it.

    Raises
    ------
    BundleError
        The signature is damaged, of an unknown key, or of another text.
    """
    try:
        found = _parse(signature)
    except ValueError as error:
        raise _refused(where, f"{SIGNATURE} is not a signature: {error}") from error
    key = keys.get(found.number)
    if key is None:
        number = key_number(signature)
        raise _refused(where, f"it is signed with the key {number}, which is not among the trusted ones")
    signed = hashlib.blake2b(text).digest() if found.algorithm == PREHASHED else text
    try:
        key.key.verify(signed, found.signature)
        key.key.verify(found.signature + found.comment.encode(), found.of_comment)
    except BadSignatureError as error:
        raise _refused(where, f"the signature of {key.name} is not of this bundle.toml") from error
    return key.name


def key_number(signature: bytes) -> str:
    """Return the number of the key that made a signature, as minisign writes it.

    Raises
    ------
    ValueError
        It is not a signature.
    """
    return _parse(signature).number[::-1].hex().upper()


def sign(text: bytes, secret: SecretKey, comment: str) -> bytes:
    """Sign the content of a bundle.toml.

    Parameters
    ----------
    text : bytes
    secret : SecretKey
    comment : str
        One line, which the signature covers.

    Returns
    -------
    bytes
        The content of bundle.toml.minisig.
    """
    signature = secret.key.sign(hashlib.blake2b(text).digest()).signature
    of_comment = secret.key.sign(signature + comment.encode()).signature
    lines = (
        f"{UNTRUSTED}signature of a qzd bundle",
        base64.b64encode(PREHASHED + secret.number + signature).decode(),
        f"{TRUSTED}{comment}",
        base64.b64encode(of_comment).decode(),
    )
    return "".join(f"{line}\n" for line in lines).encode()


def read_secret_key(path: Path, password: str | None) -> SecretKey:
    """Read a secret key that `minisign -G` has written.

    Parameters
    ----------
    path : Path
    password : str or None
        None for a key without one.

    Raises
    ------
    DataError
        It cannot be read, is not a secret key, or has another password.
    """
    try:
        content = _decode(read_file(path, MAX_BYTES).splitlines()[1], 158)
        kdf = content[2:4]
        if content[:2] != PLAIN or content[4:6] != CHECKSUM or kdf not in (SCRYPT, NO_KDF):
            raise ValueError("it is of another kind")
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, IndexError) as error:
        raise DataError(
            f"{path}: not a secret key: {error}", wanted="the file that `minisign -G` writes"
        ) from error
    if kdf == SCRYPT and password is None:
        raise DataError(f"{path}: it has a password", fix="give the password")
    secret = content[54:]
    if kdf == SCRYPT:
        salt, ops, memory = content[6:38], content[38:46], content[46:54]
        limits = int.from_bytes(ops, "little"), int.from_bytes(memory, "little")
        stream = scrypt.kdf(len(secret), (password or "").encode(), salt, *limits)
        secret = bytes(a ^ b for a, b in zip(secret, stream, strict=True))
    number, seed, checksum = secret[:8], secret[8:40], secret[72:]
    wanted = hashlib.blake2b(PLAIN + secret[:72], digest_size=32).digest()
    if kdf == SCRYPT and not hmac.compare_digest(checksum, wanted):
        raise DataError(f"{path}: the password is wrong")
    return SecretKey(number, SigningKey(seed))


def _parse(signature: bytes) -> _Signature:
    lines = signature.decode().splitlines()
    if len(lines) < 4 or not lines[2].startswith(TRUSTED):
        raise ValueError("its four lines are missing")
    content = _decode(lines[1].encode(), 74)
    if content[:2] not in (PLAIN, PREHASHED):
        raise ValueError("it is of another kind")
    comment = lines[2].removeprefix(TRUSTED)
    return _Signature(content[:2], content[2:10], content[10:], comment, _decode(lines[3].encode(), 64))


def _decode(line: bytes, length: int) -> bytes:
    try:
        content = base64.b64decode(line, validate=True)
    except binascii.Error as error:
        raise ValueError("it is not base64") from error
    if len(content) != length:
        raise ValueError(f"it has {len(content)} bytes instead of {length}")
    return content


def _refused(where: str, found: str) -> BundleError:
    return BundleError(
        f"{where}: {found}",
        wanted="a bundle that is signed with a key of [security] bundle_keys",
        fix="sign it with `qzd-tools sign BUNDLE --key FILE`, or add the signer's .pub file",
    )

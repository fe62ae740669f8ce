"""`qzd-tools sign`: what it writes, daemons with the key take, and nothing else."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path

import pytest
from nacl.signing import SigningKey

from qzd_daemon.config.schema import ModelConfig
from qzd_daemon.engine import models
from qzd_ext import bundle
from qzd_ext.errors import BundleError
from qzd_tools.cli import main
from support.tiny_model import write_tiny_bundle

NUMBER = b"\x01\x02\x03\x04\x05\x06\x07\x08"


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    """Write the secret key alice.key and, below public/, alice.pub, as minisign writes both."""
    key = SigningKey(bytes(range(32)))
    pair = bytes(key) + bytes(key.verify_key)
    checksum = hashlib.blake2b(b"Ed" + NUMBER + pair, digest_size=32).digest()
    secret = b"Ed\0\0B2" + bytes(48) + NUMBER + pair + checksum
    public = b"Ed" + NUMBER + bytes(key.verify_key)
    (tmp_path / "public").mkdir()
    for path, content in ((tmp_path / "alice.key", secret), (tmp_path / "public" / "alice.pub", public)):
        path.write_bytes(b"untrusted comment: x\n" + base64.b64encode(content) + b"\n")
    return tmp_path


def test_a_daemon_with_keys_serves_only_what_was_signed(
    keys: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_tiny_bundle(tmp_path / "b")
    config = ModelConfig(bundle=str(path), device="CPU")
    with pytest.raises(BundleError, match="not signed"):
        models.load("tiny", config, None, keys / "public")
    assert main(["sign", str(path), "--key", str(keys / "alice.key")]) == 0
    served = models.load("tiny", config, None, keys / "public")
    served.detector.close()
    assert served.info.signer == "alice"
    assert main(["inspect", str(path)]) == 0
    assert "signed with 0807060504030201" in capsys.readouterr().out


def test_sign_of_a_damaged_bundle_writes_nothing(keys: Path, tmp_path: Path) -> None:
    path = write_tiny_bundle(tmp_path / "b")
    (path / "model.bin").write_bytes(b"another")
    assert main(["sign", str(path), "--key", str(keys / "alice.key")]) == 3
    assert not (path / "bundle.toml.minisig").exists()


def test_sign_with_what_is_no_key_says_so(
    keys: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_tiny_bundle(tmp_path / "b")
    assert main(["sign", str(path), "--key", str(keys / "public" / "alice.pub")]) == 3
    assert "not a secret key" in capsys.readouterr().err
    assert bundle.read(path).signer == ""

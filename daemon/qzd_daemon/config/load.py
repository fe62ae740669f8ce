"""Reading `qzd.toml`: checked once, handed on as a frozen value."""

from __future__ import annotations

import difflib
import ipaddress
import os
import re
import tomllib
import typing
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import msgspec

from qzd_daemon.config.schema import (
    NETWORK,
    SAFE_OPTIONS,
    SCHEMES,
    SENT,
    V4L2,
    Config,
    HttpConfig,
    StreamConfig,
    Table,
)
from qzd_ext.errors import ConfigError

__all__ = ["NAME", "read_config", "split_address"]

BINDING_TABLES = ("publish", "control", "inference", "ingest")
KINDS = {  # msgspec's names of TOML's types
    "array": 'a list, as in ["one", "two"]',
    "str": "text in quotes",
    "int": "an integer",
    "float": "a number",
    "bool": "true or false",
    "object": "a table",
}
DEVICE = re.compile(r"/dev/video\d+|/dev/v4l/by-.*")
SCHEME = re.compile(r"[A-Za-z0-9]+://")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def read_config(path: Path) -> Config:
    """Read and check a configuration file.

    Raises
    ------
    ConfigError
        It cannot be read, is not TOML, or has an unknown key, a wrong type or a contradiction; the message
        names the file and the key.
    """
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(
            f"{path}: cannot be read: {error.strerror}", wanted="a configuration file", fix="correct --config"
        ) from error
    except (ValueError, RecursionError) as error:  # numbers and brackets without end, too
        raise ConfigError(f"{path}: not TOML: {error}", fix="correct the line that is named") from error
    config = _lower_schemes(_convert(values, Config, path, ""))
    _check_names(config, path)
    _check_endpoints(config, path)
    _check_security(config, path)
    _check_http(config.http, path)
    return _resolve(config, path.absolute().parent)


def _lower_schemes(config: Config) -> Config:
    """Write the schemes of URLs in lower case: they are the same in any."""
    replace = msgspec.structs.replace
    streams = {
        name: replace(stream, source=SCHEME.sub(lambda found: found[0].lower(), stream.source, count=1))
        for name, stream in config.streams.items()
    }
    return replace(config, streams=streams)


T = TypeVar("T")


def _convert(values: Any, kind: type[T], path: Path, where: str) -> T:
    """Convert a TOML table to a struct, table by table, so that a message can name the whole key."""
    if not isinstance(values, dict):
        raise _wrong_value(path, where, f"Expected a table, got {type(values).__name__}")
    hints = typing.get_type_hints(kind)
    for key in values:
        if key not in hints:
            raise _unknown_key(path, where, key, list(hints))
    done = {key: _convert_field(values[key], hints[key], path, f"{where}{key}") for key in values}
    try:
        return msgspec.convert(done, kind)
    except msgspec.ValidationError as error:
        text, _, at = str(error).partition(" - at `$.")
        if missing := re.search("missing required field `(.*)`", text):
            raise _missing(path, where, missing[1]) from error
        raise _wrong_value(path, f"{where}{at.rstrip('`')}", text) from error


def _convert_field(value: Any, hint: Any, path: Path, where: str) -> Any:
    if isinstance(hint, type) and issubclass(hint, Table):
        return _convert(value, hint, path, f"{where}.")
    if typing.get_origin(hint) is dict:
        if not isinstance(value, dict):
            raise _wrong_value(path, where, f"Expected tables [{where}.NAME], got {type(value).__name__}")
        table = typing.get_args(hint)[1]
        return {name: _convert(v, table, path, f"{where}.{name}.") for name, v in value.items()}
    return value


def _unknown_key(path: Path, where: str, key: str, known: list[str]) -> ConfigError:
    near, home = _nearest(key, known), _tables_with(key)
    fix = f"did you mean {where}{near}?" if near else f"remove {where}{key}"
    if home and (not near or near != key):
        fix = f"move it to {' or '.join(home)}, where it belongs"
    return ConfigError(
        f"{path}: unknown key {where}{key}", wanted=f"one of {', '.join(sorted(known))}", fix=fix
    )


def _tables_with(key: str) -> list[str]:
    """Return the tables that know a key, as they are written in the file."""
    tables = []
    for field in msgspec.structs.fields(Config):
        named = typing.get_origin(field.type) is dict
        table = typing.get_args(field.type)[1] if named else field.type
        if key in typing.get_type_hints(table):
            tables.append(f"[{field.name}{'.NAME' if named else ''}]")
    return tables


def _nearest(name: str, known: list[str]) -> str | None:
    return next(iter(difflib.get_close_matches(name, known, n=1)), None)


def _missing(path: Path, where: str, key: str) -> ConfigError:
    add = f"a table [{key}.NAME]" if not where else f"`{key} = ...` to [{where.rstrip('.')}]"
    return ConfigError(f"{path}: {where}{key} is missing", fix=f"add {add}")


def _wrong_value(path: Path, where: str, text: str) -> ConfigError:
    text = re.sub("`([a-z |]+)`", _in_words, text)
    return ConfigError(f"{path}: {where.rstrip('.') or 'the file'}: {text}", fix="correct the value")


def _in_words(kinds: re.Match[str]) -> str:
    """Turn msgspec's names of types, such as `float | null`, into those of TOML."""
    known = [KINDS.get(kind, kind) for kind in kinds[1].split(" | ") if kind != "null"]
    return " or ".join(known)


def _check_names(config: Config, path: Path) -> None:
    for kind, names in (("models", config.models), ("streams", config.streams)):
        for name in names:
            if not NAME.fullmatch(name):
                raise ConfigError(
                    f"{path}: {kind}.{name!r}: a name that cannot be part of a topic",
                    wanted="up to 64 of A-Z a-z 0-9 . _ -, a letter or digit first",
                    fix="choose another name",
                )
    if not config.models:
        raise ConfigError(f"{path}: no model", wanted="at least one [models.NAME]", fix="add one")
    for name, stream in config.streams.items():
        if stream.is_url and not stream.source.startswith(SCHEMES):
            raise _wrong_value(path, f"streams.{name}.source", f"a URL must begin with {', '.join(SCHEMES)}")
        _check_url(stream, path, f"streams.{name}.source")
        if stream.source.startswith(SENT):
            _check_sent(config, stream, path, f"streams.{name}.source")
        for model in stream.models:
            if model not in config.models:
                raise _unknown_model(path, name, model, list(config.models))
        _check_camera(stream, path, f"streams.{name}")
        if stream.watch and (stream.is_url or stream.loop):
            raise _wrong_value(path, f"streams.{name}.watch", "only for directories, and not with `loop`")
        if len(set(stream.models)) != len(stream.models):
            raise _wrong_value(path, f"streams.{name}.model", "a model is named twice")


def _check_url(stream: StreamConfig, path: Path, where: str) -> None:
    """Check that it is plain where a user and password end; else they could not be kept out of the log."""
    if not stream.is_url:
        return
    try:
        parts = urlsplit(stream.source)
        _ = parts.port
        if "@" in f"{parts.path}{parts.query}{parts.fragment}" or parts.netloc.count("@") > 1:
            raise ValueError
    except ValueError:  # its text may have a part of the password
        raise ConfigError(
            f"{path}: {where}: it is not clear where the address begins and ends",
            wanted="SCHEME://USER:PASSWORD@HOST:PORT/PATH",
            fix="give the keys `user` and `password_file` instead, or write what is special in them as %XX, "
            "for example @ as %40, / as %2F and [ as %5B",
        ) from None


def _check_camera(stream: StreamConfig, path: Path, where: str) -> None:
    """Check the keys that only some sources have."""
    if sum(v is not None for v in (stream.password, stream.password_file, stream.password_env)) > 1:
        raise _wrong_value(path, where, "only one of password, password_file and password_env")
    for key in ("user", "password", "password_file", "password_env"):
        if getattr(stream, key) is not None and stream.scheme not in NETWORK:
            raise _wrong_value(path, f"{where}.{key}", "only for cameras on the network")
    if stream.interval_s is not None and stream.scheme not in ("http", "https"):
        raise _wrong_value(path, f"{where}.interval_s", "only for http and https")
    for option in stream.options:
        if option not in SAFE_OPTIONS:
            near = _nearest(option, list(SAFE_OPTIONS))
            raise ConfigError(
                f"{path}: {where}.options: {option} cannot be set",
                wanted=f"some of {', '.join(SAFE_OPTIONS)}",
                fix=f"did you mean {near}?" if near else f"remove {option}",
            )


def _check_sent(config: Config, stream: StreamConfig, path: Path, where: str) -> None:
    if not stream.is_sent:
        raise _wrong_value(path, where, f"{stream.source} is more than {SENT}: frames name the stream")
    if not config.ingest.bind:
        raise ConfigError(
            f"{path}: {where}: there is no socket to send frames to",
            wanted="[ingest] with bind",
            fix='add it: [ingest] bind = ["ipc:///run/qzd/ingest"]',
        )


def _unknown_model(path: Path, stream: str, model: str, known: list[str]) -> ConfigError:
    near = _nearest(model, known)
    return ConfigError(
        f"{path}: streams.{stream}.model: there is no model {model!r}",
        wanted=f"one of {', '.join(known)}",
        fix=f"did you mean {near!r}?" if near else f"add [models.{model}], or name another",
    )


def _check_endpoints(config: Config, path: Path) -> None:
    """Other kinds of socket have neither keys nor a mode: ipc://@NAME is open to every local user."""
    for table in BINDING_TABLES:
        for endpoint in getattr(config, table).bind:
            if not endpoint.startswith(("tcp://", "ipc:///")):
                raise ConfigError(
                    f"{path}: {table}.bind: {endpoint} is no endpoint of qzd",
                    wanted="tcp://ADDRESS:PORT or ipc:///PATH",
                    fix="correct it",
                )


def _check_security(config: Config, path: Path) -> None:
    security = config.security
    if (security.server_key is None) != (security.authorized_keys is None):
        raise ConfigError(
            f"{path}: [security] has one of server_key and authorized_keys",
            wanted="both: without the clients' keys, CURVE lets anyone in",
            fix="make keys with `qzdctl keygen`, and name the directory of the clients' .pub files",
        )
    if security.server_key is not None or security.insecure:
        return
    for table in BINDING_TABLES:
        for endpoint in getattr(config, table).bind:
            if _is_open(endpoint):
                raise ConfigError(
                    f"{path}: {table}.bind: {endpoint} would serve anyone who can reach this machine",
                    wanted="ipc, a loopback address, or [security] with server_key and authorized_keys",
                    fix="make keys with `qzdctl keygen`, or state that this network is trusted: "
                    "[security] insecure = true",
                )


def split_address(listen: str) -> tuple[str, int]:
    """Split `ADDRESS:PORT`; an IPv6 address stands in brackets.

    Raises
    ------
    ConfigError
        It is something else.
    """
    host, colon, port = listen.rpartition(":")
    if not (host and colon and port.isascii() and port.isdigit() and int(port) < 2**16):
        raise ConfigError(
            f"[http] listen = {listen!r}: not an address and a port", wanted="127.0.0.1:9178, or [::1]:9178"
        )
    return host.removeprefix("[").removesuffix("]"), int(port)


def _check_http(http: HttpConfig, path: Path) -> None:
    if http.listen is None:
        return
    split_address(http.listen)
    if _is_open(f"tcp://{http.listen}") and not http.insecure:
        raise ConfigError(
            f"{path}: http.listen: {http.listen} would answer anyone who can reach this machine",
            wanted="a loopback address",
            fix="let a proxy with a certificate stand before it, or state that this network is trusted: "
            "[http] insecure = true",
        )
    if http.page and http.token_file is None and _is_open(f"tcp://{http.listen}"):
        raise ConfigError(
            f"{path}: http.page: {http.listen} would show pictures to anyone who can reach this machine",
            wanted="[http] token_file with a password, or a loopback address",
            fix="`openssl rand -hex 16 > /etc/qzd/page.token`, and name that file",
        )


def _is_open(endpoint: str) -> bool:
    """Whether others than this machine's users can reach it. A name is not looked up: it may change."""
    if not endpoint.startswith("tcp://"):
        return False
    host = endpoint.removeprefix("tcp://").rpartition(":")[0].strip("[]")
    try:
        return not ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host not in ("localhost", "lo")


def _resolve(config: Config, base: Path) -> Config:
    """Paths relative to the configuration file become absolute."""
    replace = msgspec.structs.replace
    service, security = config.service, config.security
    if security.server_key is not None and security.authorized_keys is not None:
        security = replace(
            security,
            server_key=str(base / _credential(security.server_key)),
            authorized_keys=str(base / security.authorized_keys),
        )
    if security.bundle_keys is not None:
        security = replace(security, bundle_keys=str(base / security.bundle_keys))
    state_dir = service.state_dir or os.environ.get("STATE_DIRECTORY", "").partition(":")[0]
    if state_dir:
        service = replace(service, state_dir=str(base / state_dir))
    http = config.http
    if http.token_file is not None:
        http = replace(http, token_file=str(base / _credential(http.token_file)))
    if service.cache_dir is not None:
        service = replace(service, cache_dir=str(base / service.cache_dir))
    return replace(
        config,
        models={n: replace(m, bundle=str(base / m.bundle)) for n, m in config.models.items()},
        streams={n: _resolve_stream(s, base) for n, s in config.streams.items()},
        service=service,
        security=security,
        http=http,
    )


def _credential(path: str) -> str:
    """Fill in the directory of systemd's credentials."""
    credentials = os.environ.get("CREDENTIALS_DIRECTORY", "$CREDENTIALS_DIRECTORY")
    return path.replace("$CREDENTIALS_DIRECTORY", credentials)


def _resolve_stream(stream: StreamConfig, base: Path) -> StreamConfig:
    """Make a stream's paths absolute; `/dev/video0` is a camera."""
    source = stream.source
    if not stream.is_url:
        source = f"{V4L2}{source}" if DEVICE.fullmatch(source) else str(base / source)
    file = stream.password_file
    return msgspec.structs.replace(
        stream, source=source, password_file=str(base / _credential(file)) if file is not None else None
    )

"""`qzd.toml`: typed, checked once, handed on as a frozen value.

What may live here: the schema with its help, and reading it. An unknown key is an error that names the key
and the nearest known one. Paths are relative to the configuration file; units are in the names.
"""

from __future__ import annotations

import difflib
import ipaddress
import os
import re
import tomllib
import typing
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta, Struct

from qzd_ext.errors import ConfigError

__all__ = [
    "Config",
    "ControlConfig",
    "HttpConfig",
    "InferenceConfig",
    "ModelConfig",
    "PublishConfig",
    "SecurityConfig",
    "ServiceConfig",
    "StreamConfig",
    "read_config",
    "split_address",
]

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")

SCHEMES = ("rtsp://", "rtsps://", "http://", "https://")

Fraction = Annotated[float, Meta(ge=0.0, le=1.0)]
Count = Annotated[int, Meta(ge=1)]
Names = Annotated[tuple[str, ...], Meta(min_length=1)]
Rate = Annotated[float, Meta(gt=0.0)]


class _Table(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A table of qzd.toml."""


class PublishConfig(_Table, frozen=True):
    """`[publish]`: where and how detections are sent."""

    bind: Annotated[
        tuple[str, ...], Meta(min_length=1, description="Endpoints, tcp://ADDRESS:PORT or ipc:///PATH.")
    ] = ("tcp://127.0.0.1:5561",)
    send_hwm: Annotated[
        int, Meta(ge=1, description="Messages kept for a subscriber that is slow; more are dropped for it.")
    ] = 1000
    linger_ms: Annotated[
        int, Meta(ge=0, description="How long the stop waits for subscribers to take what was sent.")
    ] = 1000
    heartbeat_ms: Annotated[int, Meta(ge=10, description="Interval of heartbeats.")] = 1000
    wait_for_subscribers: Annotated[
        int,
        Meta(ge=0, description="Start the sources only when there are so many subscriptions to detections."),
    ] = 0
    max_connections: Annotated[int, Meta(ge=1, description="Subscribers on one endpoint at once.")] = 1000


class ControlConfig(_Table, frozen=True):
    """`[control]`: where `qzdctl` and others ask and order."""

    bind: Annotated[
        tuple[str, ...], Meta(description="Endpoints, tcp://ADDRESS:PORT or ipc:///PATH; none: no control.")
    ] = ()
    max_connections: Annotated[int, Meta(ge=1, description="Callers on one endpoint at once.")] = 64


class InferenceConfig(_Table, frozen=True):
    """`[inference]`: images that others send, answered with what is in them."""

    bind: Annotated[
        tuple[str, ...], Meta(description="Endpoints, tcp://ADDRESS:PORT or ipc:///PATH; none: no requests.")
    ] = ()
    max_connections: Annotated[int, Meta(ge=1, description="Callers on one endpoint at once.")] = 64
    queue: Annotated[
        int, Meta(ge=1, description="Requests in hand at once; one more is answered `busy` at once.")
    ] = 16
    max_image_bytes: Annotated[int, Meta(ge=1024, description="Largest image, as it is sent.")] = 32 * 2**20
    max_pixels: Annotated[
        int, Meta(ge=1, description="Largest image, width times height; known before it is decoded.")
    ] = 40_000_000
    timeout_ms: Annotated[
        int, Meta(ge=1, description="Deadline of a request that states none, and the longest it may state.")
    ] = 5000


class HttpConfig(_Table, frozen=True):
    """`[http]`: metrics and health, to be read and never to be changed."""

    listen: Annotated[
        str | None, Meta(description="ADDRESS:PORT, usually 127.0.0.1:9178; default: no HTTP.")
    ] = None
    insecure: Annotated[
        bool,
        Meta(description="Answer anyone who reaches an address other than loopback; HTTP has no keys."),
    ] = False


class SecurityConfig(_Table, frozen=True):
    """`[security]`: who may connect over TCP. Over ipc, it is the owner and the group of the socket."""

    server_key: Annotated[
        str | None,
        Meta(description="File of the daemon's secret CURVE key; may begin with $CREDENTIALS_DIRECTORY."),
    ] = None
    authorized_keys: Annotated[
        str | None, Meta(description="Directory of the public keys (*.pub) that may connect.")
    ] = None
    insecure: Annotated[
        bool, Meta(description="Serve anyone on TCP addresses other than loopback, without keys.")
    ] = False


class ModelConfig(_Table, frozen=True):
    """`[models.NAME]`: a bundle and the device that runs it."""

    bundle: Annotated[
        str, Meta(description="A bundle, or a directory of numbered ones (the highest is used).")
    ]
    device: Annotated[
        str,
        Meta(description="CPU, GPU, GPU.1, NPU, AUTO, AUTO:GPU,CPU, MULTI:..., HETERO:... (VPU means NPU)."),
    ] = "AUTO"
    fallback: Annotated[
        tuple[str, ...], Meta(description="Devices to try in this order when the device cannot serve.")
    ] = ()
    hint: Annotated[Literal["latency", "throughput"], Meta(description="What the device is set up for.")] = (
        "throughput"
    )
    streams: Annotated[
        Count | None, Meta(description="Inferences side by side on the device; default: as the hint has it.")
    ] = None
    precision: Annotated[
        Literal["f32", "f16", "bf16"] | None,
        Meta(description="In which the device computes what is not quantized; default: what it does best."),
    ] = None
    requests: Annotated[
        Count | None, Meta(description="Frames under way at once; default: what the device finds best.")
    ] = None
    threads: Annotated[
        Count | None, Meta(description="CPU threads for inference; default: what the process may use.")
    ] = None
    confidence: Annotated[
        Fraction | None, Meta(description="Least score that is published; default: the bundle's.")
    ] = None
    iou: Annotated[
        Fraction | None,
        Meta(description="Overlap above which a worse box is dropped; default: the bundle's."),
    ] = None
    max_detections: Annotated[
        Count | None, Meta(description="Most boxes of a frame; default: the bundle's.")
    ] = None


class StreamConfig(_Table, frozen=True):
    """`[streams.NAME]`: a source of frames and the models that look at them."""

    source: Annotated[
        str, Meta(min_length=1, description="A video file, a directory of images, or a URL of rtsp or http.")
    ]
    model: Annotated[str | Names, Meta(description="The name of a [models.NAME], or several.")]
    when_behind: Annotated[
        Literal["drop", "wait"] | None,
        Meta(
            description="drop: the newest frame wins, and a file plays at its own speed. "
            "wait: every frame, in order, as fast as the model. Default: drop for cameras, else wait."
        ),
    ] = None
    max_fps: Annotated[Rate | None, Meta(description="Most frames a second that the model looks at.")] = None
    max_down_s: Annotated[
        float, Meta(ge=0.0, description="How long the source may be down before the daemon is not ready.")
    ] = 30.0

    loop: Annotated[bool, Meta(description="Read a file or directory over and over.")] = False
    rtsp_transport: Annotated[
        Literal["tcp", "udp"], Meta(description="How RTSP cameras send their video.")
    ] = "tcp"
    timeout_s: Annotated[
        float, Meta(gt=0.0, description="After this long without data a camera is connected to again.")
    ] = 10.0

    @property
    def models(self) -> tuple[str, ...]:
        """`model`, always as a tuple."""
        return (self.model,) if isinstance(self.model, str) else self.model

    @property
    def policy(self) -> Literal["drop", "wait"]:
        """`when_behind`, with its default."""
        return self.when_behind or ("drop" if self.is_url else "wait")

    @property
    def is_url(self) -> bool:
        """Whether the source is a camera on the network, not a path."""
        return "://" in self.source


class ServiceConfig(_Table, frozen=True):
    """`[service]`: the daemon's own life."""

    stop_timeout_s: Annotated[
        float, Meta(ge=0.0, description="How long a stop waits for the frames under way.")
    ] = 10.0
    inference_timeout_s: Annotated[
        float, Meta(gt=0.0, description="After this long an inference under way is given up as an error.")
    ] = 30.0
    cache_max_mb: Annotated[
        int, Meta(ge=0, description="Size of cache_dir above which what was used longest ago is removed.")
    ] = 1024
    cache_dir: Annotated[
        str | None, Meta(description="Where compiled models are kept, for faster starts; default: nowhere.")
    ] = None


class Config(_Table, frozen=True):
    """The whole of qzd.toml, with every path absolute."""

    models: dict[str, ModelConfig]
    streams: dict[str, StreamConfig] = {}
    publish: PublishConfig = PublishConfig()
    control: ControlConfig = ControlConfig()
    inference: InferenceConfig = InferenceConfig()
    http: HttpConfig = HttpConfig()
    security: SecurityConfig = SecurityConfig()
    service: ServiceConfig = ServiceConfig()


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
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not TOML: {error}", fix="correct the line that is named") from error
    config = _convert(values, Config, path, "")
    _check_names(config, path)
    _check_security(config, path)
    _check_http(config.http, path)
    return _resolve(config, path.absolute().parent)


T = TypeVar("T")


def _convert(values: Any, kind: type[T], path: Path, where: str) -> T:
    """A TOML table to a struct. Tables go one by one, so that a message can name the key in full."""
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
        raise _wrong_value(path, f"{where}{at.rstrip('`')}", text) from error


def _convert_field(value: Any, hint: Any, path: Path, where: str) -> Any:
    if isinstance(hint, type) and issubclass(hint, _Table):
        return _convert(value, hint, path, f"{where}.")
    if typing.get_origin(hint) is dict:
        if not isinstance(value, dict):
            raise _wrong_value(path, where, f"Expected tables [{where}.NAME], got {type(value).__name__}")
        table = typing.get_args(hint)[1]
        return {name: _convert(v, table, path, f"{where}.{name}.") for name, v in value.items()}
    return value


def _unknown_key(path: Path, where: str, key: str, known: list[str]) -> ConfigError:
    near = difflib.get_close_matches(key, known, n=1)
    return ConfigError(
        f"{path}: unknown key {where}{key}",
        wanted=f"one of {', '.join(sorted(known))}",
        fix=f"did you mean {where}{near[0]}?" if near else f"remove {where}{key}",
    )


def _wrong_value(path: Path, where: str, text: str) -> ConfigError:
    return ConfigError(f"{path}: {where.rstrip('.') or 'the file'}: {text}", fix="correct the value")


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
        for model in stream.models:
            if model not in config.models:
                raise _unknown_model(path, name, model, list(config.models))
        if len(set(stream.models)) != len(stream.models):
            raise _wrong_value(path, f"streams.{name}.model", "a model is named twice")


def _unknown_model(path: Path, stream: str, model: str, known: list[str]) -> ConfigError:
    near = difflib.get_close_matches(model, known, n=1)
    return ConfigError(
        f"{path}: streams.{stream}.model: there is no model {model!r}",
        wanted=f"one of {', '.join(known)}",
        fix=f"did you mean {near[0]!r}?" if near else f"add [models.{model}], or name another",
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
    for table in ("publish", "control", "inference"):
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
        credentials = os.environ.get("CREDENTIALS_DIRECTORY", "$CREDENTIALS_DIRECTORY")
        server_key = security.server_key.replace("$CREDENTIALS_DIRECTORY", credentials)
        security = replace(
            security,
            server_key=str(base / server_key),
            authorized_keys=str(base / security.authorized_keys),
        )
    if service.cache_dir is not None:
        service = replace(service, cache_dir=str(base / service.cache_dir))
    return replace(
        config,
        models={n: replace(m, bundle=str(base / m.bundle)) for n, m in config.models.items()},
        streams={
            n: s if s.is_url else replace(s, source=str(base / s.source)) for n, s in config.streams.items()
        },
        service=service,
        security=security,
    )

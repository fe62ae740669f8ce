"""What `qzd.toml` may say: its tables and keys, typed, each with its help."""

from __future__ import annotations

from typing import Annotated, Literal
from urllib.parse import urlsplit

from msgspec import Meta, Struct

from qzd_client.requests import WhenBehind
from qzd_ext.manifest import MAX_DETECTIONS

__all__ = [
    "Config",
    "ControlConfig",
    "HttpConfig",
    "InferenceConfig",
    "IngestConfig",
    "ModelConfig",
    "PublishConfig",
    "SecurityConfig",
    "ServiceConfig",
    "StreamConfig",
    "Table",
]

SENT = "ingest://"
V4L2 = "v4l2://"
NETWORK = ("rtsp", "rtsps", "http", "https", "rtmp", "rtmps", "udp", "rtp")
SCHEMES = (*(f"{scheme}://" for scheme in NETWORK), f"{V4L2}/", SENT)
SAFE_OPTIONS = (  # of FFmpeg's: none writes, opens another host or turns a check off
    *("allowed_media_types", "analyzeduration", "buffer_size", "ca_file", "fifo_size", "framerate"),
    *("input_format", "max_delay", "pixel_format", "pkt_size", "probesize", "reorder_queue_size"),
    *("rtmp_live", "rtsp_flags", "rw_timeout", "timeout", "tls_verify", "use_wallclock_as_timestamps"),
    *("user_agent", "video_size"),
)

Fraction = Annotated[float, Meta(ge=0.0, le=1.0)]
MOST = 2**31 - 1  # of what libzmq and OpenVINO count: they take 32 bits
MOST_SECONDS = 86_400.0  # longer is a mistake, and `inf` cannot be waited for

Count = Annotated[int, Meta(ge=1, le=MOST)]
Interval = Annotated[float, Meta(ge=0.05, le=MOST_SECONDS)]
Text = Annotated[str, Meta(min_length=1)]
Names = Annotated[tuple[str, ...], Meta(min_length=1)]
Rate = Annotated[float, Meta(ge=0.0001)]  # its interval is waited for


class Table(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A table of qzd.toml, or the whole of it."""


class PublishConfig(Table, frozen=True):
    """`[publish]`: where and how detections are sent."""

    bind: Annotated[
        tuple[str, ...], Meta(min_length=1, description="Endpoints, tcp://ADDRESS:PORT or ipc:///PATH.")
    ] = ("tcp://127.0.0.1:5561",)
    send_hwm: Annotated[
        int,
        Meta(
            ge=1,
            le=MOST,
            description="Messages kept for a subscriber that is slow; more are dropped for it.",
        ),
    ] = 1000
    linger_ms: Annotated[
        int,
        Meta(ge=0, le=MOST, description="How long the stop waits for subscribers to take what was sent."),
    ] = 1000
    heartbeat_ms: Annotated[int, Meta(ge=10, le=MOST, description="Interval of heartbeats.")] = 1000
    wait_for_subscribers: Annotated[
        int,
        Meta(ge=0, description="Start the sources only when detections have this number of subscriptions."),
    ] = 0
    max_connections: Annotated[
        int, Meta(ge=1, le=MOST, description="Subscribers on one endpoint at once.")
    ] = 1000


class ControlConfig(Table, frozen=True):
    """`[control]`: where `qzdctl` and others ask and order."""

    bind: Annotated[
        tuple[str, ...], Meta(description="Endpoints, tcp://ADDRESS:PORT or ipc:///PATH; none: no control.")
    ] = ()
    max_connections: Annotated[int, Meta(ge=1, le=MOST, description="Callers on one endpoint at once.")] = 64


class InferenceConfig(Table, frozen=True):
    """`[inference]`: images that others send, answered with what is in them."""

    bind: Annotated[
        tuple[str, ...], Meta(description="Endpoints, tcp://ADDRESS:PORT or ipc:///PATH; none: no requests.")
    ] = ()
    max_connections: Annotated[int, Meta(ge=1, le=MOST, description="Callers on one endpoint at once.")] = 64
    queue: Annotated[
        int, Meta(ge=1, description="Requests in hand at once; one more is answered `busy` at once.")
    ] = 16
    max_image_bytes: Annotated[int, Meta(ge=1024, le=MOST, description="Largest image, as it is sent.")] = (
        32 * 2**20
    )
    max_pixels: Annotated[
        int, Meta(ge=1, description="Largest image, width times height; known before it is decoded.")
    ] = 40_000_000
    timeout_ms: Annotated[
        int, Meta(ge=1, description="Deadline of a request that states none, and the longest it may state.")
    ] = 5000


class IngestConfig(Table, frozen=True):
    """`[ingest]`: frames that others send, for the streams whose source is `ingest://`."""

    bind: Annotated[
        tuple[str, ...], Meta(description="Endpoints, tcp://ADDRESS:PORT or ipc:///PATH; none: no frames.")
    ] = ()
    max_connections: Annotated[int, Meta(ge=1, le=MOST, description="Senders on one endpoint at once.")] = 64
    max_image_bytes: Annotated[int, Meta(ge=1024, le=MOST, description="Largest frame, as it is sent.")] = (
        32 * 2**20
    )
    max_pixels: Annotated[
        int, Meta(ge=1, description="Largest frame, width times height; known before it is decoded.")
    ] = 40_000_000


class HttpConfig(Table, frozen=True):
    """`[http]`: metrics and health, to be read and never to be changed."""

    listen: Annotated[
        str | None, Meta(description="ADDRESS:PORT, usually 127.0.0.1:9178; default: no HTTP.")
    ] = None
    insecure: Annotated[
        bool,
        Meta(description="Answer anyone who reaches an address other than loopback; HTTP has no keys."),
    ] = False
    page: Annotated[
        bool, Meta(description="Serve a page with the streams' pictures, results and log lines.")
    ] = False
    token_file: Annotated[
        str | None,
        Meta(
            description="File with the password of the page, for any user name; may begin with "
            "$CREDENTIALS_DIRECTORY. Required for the page on an address other than loopback."
        ),
    ] = None


class SecurityConfig(Table, frozen=True):
    """`[security]`: who may connect over TCP. Over ipc, it is the owner and the group of the socket."""

    server_key: Annotated[
        str | None,
        Meta(description="File of the daemon's secret CURVE key; may begin with $CREDENTIALS_DIRECTORY."),
    ] = None
    authorized_keys: Annotated[
        str | None, Meta(description="Directory of the public keys (*.pub) that may connect.")
    ] = None
    bundle_keys: Annotated[
        str | None,
        Meta(description="Directory of minisign's public keys (*.pub); a bundle must be signed with one."),
    ] = None
    insecure: Annotated[
        bool, Meta(description="Serve anyone on TCP addresses other than loopback, without keys.")
    ] = False


class ModelConfig(Table, frozen=True):
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
        Meta(description="What the device computes in; default: what the bundle was validated in."),
    ] = None
    requests: Annotated[
        Count | None,
        Meta(description="Frames under way at once; default: what the device finds best, with 2 to spare."),
    ] = None
    threads: Annotated[
        Count | None, Meta(description="CPU threads for inference; default: what the process may use.")
    ] = None
    labels: Annotated[
        Names | None, Meta(description="Labels that are published; default: all of the bundle's.")
    ] = None
    confidence: Annotated[
        Fraction | dict[str, Fraction] | None,
        Meta(
            description="Least score that is published, also by label: { person = 0.6, default = 0.4 }; "
            "default: the bundle's."
        ),
    ] = None
    iou: Annotated[
        Fraction | None,
        Meta(description="Overlap above which a worse box is dropped; default: the bundle's."),
    ] = None
    max_detections: Annotated[
        Annotated[int, Meta(ge=1, le=MAX_DETECTIONS)] | None,
        Meta(description="Most boxes of a frame; default: the bundle's."),
    ] = None


class StreamConfig(Table, frozen=True):
    """`[streams.NAME]`: a source of frames and the models that look at them."""

    source: Annotated[
        str,
        Meta(
            min_length=1,
            description="A video file, a directory of images, a URL of rtsp, http, rtmp, udp or rtp, "
            "`/dev/videoN` for a camera at this machine, or `ingest://` for frames that are sent to "
            "`[ingest] bind`.",
        ),
    ]
    model: Annotated[str | Names, Meta(description="The name of a [models.NAME], or several.")]
    labels: Annotated[
        Names | None, Meta(description="Labels that are published; default: the model's `labels`.")
    ] = None
    confidence: Annotated[
        Fraction | dict[str, Fraction] | None,
        Meta(description="Least score that is published, also by label; default: the model's `confidence`."),
    ] = None
    when_behind: Annotated[
        WhenBehind | None,
        Meta(
            description="drop: the newest frame wins, and a file plays at its own speed. "
            "wait: every frame, in order, as fast as the model. "
            "Default: wait for files and directories, else drop."
        ),
    ] = None
    max_fps: Annotated[Rate | None, Meta(description="Most frames per second for the model.")] = None
    max_down_s: Annotated[
        float, Meta(ge=0.0, description="How long the source may be down before the daemon is not ready.")
    ] = 30.0

    user: Annotated[Text | None, Meta(description="The user of a camera.")] = None
    password: Annotated[
        Text | None, Meta(description="Its password; the next two keep it out of this file.")
    ] = None
    password_file: Annotated[
        Text | None,
        Meta(description="File with its password; may begin with $CREDENTIALS_DIRECTORY (LoadCredential=)."),
    ] = None
    password_env: Annotated[Text | None, Meta(description="Environment variable with its password.")] = None
    interval_s: Annotated[
        Interval | None,
        Meta(description="Fetch a single JPEG or PNG from an http URL at this interval."),
    ] = None
    options: Annotated[
        dict[str, str], Meta(description=f"Options for FFmpeg, of {', '.join(SAFE_OPTIONS)}.")
    ] = {}
    skip: Annotated[
        Literal["nonref", "nonkey"] | None,
        Meta(
            description="Decode less: nonref leaves out pictures that no other refers to, nonkey all but key "
            "frames."
        ),
    ] = None
    on_damage: Annotated[
        Literal["damaged", "error"],
        Meta(
            description="What a picture that is not whole becomes. damaged: an outcome of its own, "
            "with what was found in it. error: nothing is looked for."
        ),
    ] = "damaged"
    hardware_decoding: Annotated[
        bool, Meta(description="Try Intel's Quick Sync for video first; where it cannot, software does it.")
    ] = False
    loop: Annotated[bool, Meta(description="Read a file or directory over and over.")] = False
    watch: Annotated[
        bool,
        Meta(description="Follow a directory: read each file that is written and closed, or moved in, once."),
    ] = False
    rtsp_transport: Annotated[
        Literal["tcp", "udp"], Meta(description="How RTSP cameras send their video.")
    ] = "tcp"
    timeout_s: Annotated[
        float,
        Meta(
            gt=0.0,
            le=MOST_SECONDS,
            description="After this long without a picture a camera is connected to again "
            "(six times as long before its first), and a stream whose frames are sent is down.",
        ),
    ] = 10.0

    @property
    def models(self) -> tuple[str, ...]:
        """`model`, always as a tuple."""
        return (self.model,) if isinstance(self.model, str) else self.model

    @property
    def policy(self) -> WhenBehind:
        """`when_behind`, with its default."""
        return self.when_behind or ("drop" if self.is_url else "wait")

    @property
    def is_url(self) -> bool:
        """Whether the source is live, not a path."""
        return "://" in self.source

    @property
    def scheme(self) -> str:
        """The scheme of a URL, without `://`."""
        return urlsplit(self.source).scheme

    @property
    def address(self) -> str:
        """The source as it may be shown: of a URL, no user, no password and no query.

        Some cameras want those as a part of the path: `/user=NAME_password=WORD_channel=1`.
        """
        if not self.is_url:
            return self.source
        parts = urlsplit(self.source)
        path = "/".join("..." if "=" in part or ":" in part else part for part in parts.path.split("/"))
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{path}"

    @property
    def is_sent(self) -> bool:
        """Whether the frames come in at the ingest socket."""
        return self.source == SENT


class ServiceConfig(Table, frozen=True):
    """`[service]`: the daemon's own life."""

    stop_timeout_s: Annotated[
        float,
        Meta(ge=0.0, le=MOST_SECONDS, description="How long a stop waits for the frames under way."),
    ] = 10.0
    inference_timeout_s: Annotated[
        float,
        Meta(
            gt=0.0,
            le=MOST_SECONDS,
            description="After this long an inference under way is given up as an error.",
        ),
    ] = 30.0
    memory_mb: Annotated[
        Count | None,
        Meta(
            description="Memory of the process above which requests are refused and callers disconnected; "
            "default: 80 % of the container's or the machine's."
        ),
    ] = None
    self_test_interval_s: Annotated[
        float,
        Meta(
            ge=0.0,
            le=MOST_SECONDS,
            description="Run each model's golden frames again this long after the last time; 0: never.",
        ),
    ] = 3600.0
    cache_max_mb: Annotated[
        int, Meta(ge=0, description="Size of cache_dir above which what was used longest ago is removed.")
    ] = 1024
    state_dir: Annotated[
        str | None,
        Meta(
            description="Where it is kept which bundles have ended the process; "
            "default: $STATE_DIRECTORY, which systemd sets, else nowhere."
        ),
    ] = None
    cache_dir: Annotated[
        str | None, Meta(description="Where compiled models are kept, for faster starts; default: nowhere.")
    ] = None


class Config(Table, frozen=True):
    """The whole of qzd.toml, with every path absolute."""

    models: dict[str, ModelConfig]
    streams: dict[str, StreamConfig] = {}
    publish: PublishConfig = PublishConfig()
    control: ControlConfig = ControlConfig()
    inference: InferenceConfig = InferenceConfig()
    ingest: IngestConfig = IngestConfig()
    http: HttpConfig = HttpConfig()
    security: SecurityConfig = SecurityConfig()
    service: ServiceConfig = ServiceConfig()

"""Configuration: one frozen type, read from one TOML file and the environment.

`deploy/config.example.toml` shows every field with its default; a test keeps the two equal.
Durations are in seconds and sizes in bytes unless the name says otherwise.
"""

import os
import tomllib
from collections.abc import Collection, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta, Struct, field

from shared.errors import ConfigError
from shared.sealing import KeyRing, read_key

ENV_PREFIX = "CORREIO_"
FILE_VARIABLE = "CORREIO_CONFIG"
DEFAULT_FILE = "correio.toml"

TOKEN_LENGTH = 20
"""The shortest token that an operator may log in with, in characters."""

SECRET_LENGTH = 8
"""The shortest secret that a source may sign with, in characters."""

PositiveInt = Annotated[int, Meta(ge=1)]
Port = Annotated[int, Meta(ge=0, le=65535)]
PositiveSeconds = Annotated[float, Meta(gt=0)]
Seconds = Annotated[float, Meta(ge=0)]
Fraction = Annotated[float, Meta(ge=0, le=1)]
Share = Annotated[float, Meta(gt=0, le=1)]
Days = Annotated[float, Meta(ge=0)]
Name = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]


class Secret:
    """A string that never shows itself in a repr, a log line or an error."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """The secret itself; call it only where it is used."""
        return self._value

    def __repr__(self) -> str:
        return "Secret('***')"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._value == self._value

    def __hash__(self) -> int:
        return hash(self._value)

    def __bool__(self) -> bool:
        return bool(self._value)


class BrokerConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """How to reach RabbitMQ."""

    url: Secret = field(default_factory=lambda: Secret("amqp://guest:guest@127.0.0.1:5672/"))
    connect_timeout: PositiveSeconds = 5.0
    heartbeat: PositiveInt = 3
    reconnect_max: PositiveSeconds = 2.0
    declare_missing: bool = True
    metrics_url: str = ""


class StoreConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """Where state, history and deliveries rest."""

    url: Secret = field(default_factory=lambda: Secret("sqlite:///var/correio.db"))
    busy_timeout: PositiveSeconds = 5.0
    pool_size: PositiveInt = 4
    connect_timeout: PositiveSeconds = 5.0


class SealingConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """The keys that wrap the data keys, and the one that makes tax ids searchable."""

    keys: Secret = field(default_factory=lambda: Secret(""))
    index_key: Secret = field(default_factory=lambda: Secret(""))
    erasing_interval: PositiveSeconds = 30.0


class ReceiverConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """The HTTP side that the source talks to, and its limits."""

    host: str = "127.0.0.1"
    port: Port = 8080
    processes: PositiveInt = 1
    spool: str = "var/spool"
    publish_timeout: PositiveSeconds = 2.0
    shutdown_timeout: PositiveSeconds = 8.0
    max_body_bytes: PositiveInt = 4_194_304
    max_buffered_bytes: PositiveInt = 16_777_216
    max_events: PositiveInt = 1_000
    max_depth: PositiveInt = 64
    header_timeout: PositiveSeconds = 5.0
    body_timeout: PositiveSeconds = 5.0
    keepalive_timeout: PositiveSeconds = 75.0
    max_in_flight: PositiveInt = 256
    max_connections: PositiveInt = 2_048
    trusted_proxies: tuple[str, ...] = ()
    spool_max_bytes: PositiveInt = 1_073_741_824
    spool_min_free_bytes: int = 268_435_456
    spool_drain_rate: PositiveInt = 2_000
    queue_max_events: PositiveInt = 1_000_000
    circuit_failures: PositiveInt = 3
    circuit_probe_interval: PositiveSeconds = 0.5


class EventsConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """The events worker: how much it takes at once and when it gives up waiting."""

    prefetch: PositiveInt = 2_000
    batch_max: PositiveInt = 1_000
    linger: Seconds = 0.005
    future_tolerance: PositiveSeconds = 86_400.0
    quiet_period: PositiveSeconds = 900.0
    pause_max: PositiveSeconds = 2.0
    give_way: Annotated[float, Meta(ge=0, le=10)] = 2.0


class CallbacksConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """The callbacks worker: attempts, their schedule and their bounds."""

    schedule: tuple[PositiveSeconds, ...] = (
        5.0, 30.0, 120.0, 600.0, 1_800.0, 3_600.0, 7_200.0, 18_000.0, 36_000.0, 36_000.0,
    )  # fmt: skip
    jitter: Fraction = 0.2
    retry_after_max: PositiveSeconds = 3_600.0
    attempt_timeout: PositiveSeconds = 15.0
    connect_timeout: PositiveSeconds = 5.0
    quick_retries: Annotated[int, Meta(ge=0, le=3)] = 1
    response_max_bytes: PositiveInt = 65_536
    answer_kept_bytes: Annotated[int, Meta(ge=0)] = 512
    max_in_flight: PositiveInt = 256
    prefetch: PositiveInt = 500
    relay_interval: PositiveSeconds = 0.1
    relay_batch: PositiveInt = 1_000
    wake_grace: PositiveSeconds = 10.0
    lease_margin: PositiveSeconds = 5.0
    breaker_failures: PositiveInt = 10
    breaker_open: PositiveSeconds = 30.0
    breaker_open_max: PositiveSeconds = 600.0
    release_rate: PositiveInt = 100


class RetentionConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """How many days each thing is kept, 0 for ever (see `shared.store.retention`)."""

    interval: PositiveSeconds = 3_600.0
    share: Share = 0.25
    payload_days: Days = 90.0
    attempt_days: Days = 90.0
    ended_days: Days = 365.0
    deleted_days: Days = 1_825.0
    undelivered_days: Days = 730.0
    quarantine_open_days: Days = 365.0
    quarantine_resolved_days: Days = 30.0
    audit_days: Days = 1_825.0
    sample_days: Days = 7.0
    erasure_days: Days = 3_650.0


class OpsConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """Health and metrics port of every process; port 0 takes any free one."""

    host: str = "127.0.0.1"
    port: Port = 0


class ConsoleConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """The operators' web page. On another address than loopback it wants `[[operator]]` tables."""

    host: str = "127.0.0.1"
    port: Port = 8090
    secure_cookies: bool = False
    session_lifetime: PositiveSeconds = 28_800.0
    sample_interval: PositiveSeconds = 5.0


class LogConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """What the logs look like."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["json", "console"] = "json"


class TelemetryConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """Spans for OpenTelemetry; off while no collector is named. Wants the extra ``otel``."""

    otlp_endpoint: str = ""
    sample_ratio: Fraction = 0.01


class SourceConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """A party that sends webhooks; each secret has at least 8 characters."""

    name: Name
    secrets: tuple[Secret, ...] = ()
    secrets_file: str | None = None
    partner_app_ids: tuple[str, ...] = ()
    allowed_networks: tuple[str, ...] = ()
    require_signature: bool = True


class EndpointConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """A service of ours that gets callbacks."""

    id: Name
    url: str
    secrets: tuple[Secret, ...] = ()
    secrets_file: str | None = None
    types: tuple[str, ...] = ("*",)
    max_in_flight: PositiveInt = 10
    allow_private_network: bool = False
    headers: dict[str, str] = field(default_factory=dict)


class OperatorConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """A person who may log in to the console; each secret is a token of at least 20 characters."""

    name: Name
    secrets: tuple[Secret, ...] = ()
    secrets_file: str | None = None
    read_only: bool = False
    may_unmask: bool = False


class Config(Struct, frozen=True, forbid_unknown_fields=True):
    """Everything that an operator can set."""

    broker: BrokerConfig = field(default_factory=BrokerConfig)
    store: StoreConfig = field(default_factory=StoreConfig)
    sealing: SealingConfig = field(default_factory=SealingConfig)
    receiver: ReceiverConfig = field(default_factory=ReceiverConfig)
    events: EventsConfig = field(default_factory=EventsConfig)
    callbacks: CallbacksConfig = field(default_factory=CallbacksConfig)
    retention: RetentionConfig = field(default_factory=RetentionConfig)
    ops: OpsConfig = field(default_factory=OpsConfig)
    console: ConsoleConfig = field(default_factory=ConsoleConfig)
    log: LogConfig = field(default_factory=LogConfig)
    telemetry: TelemetryConfig = field(default_factory=TelemetryConfig)
    source: tuple[SourceConfig, ...] = ()
    endpoint: tuple[EndpointConfig, ...] = ()
    operator: tuple[OperatorConfig, ...] = ()


SECTIONS: tuple[str, ...] = (
    "broker", "store", "sealing", "receiver", "events", "callbacks", "retention", "ops", "console",
    "log", "telemetry",
)  # fmt: skip


def config_file(environ: Mapping[str, str] | None = None) -> Path | None:
    """The file that `load_config` reads; None if none is named and none lies in this folder."""
    named = (os.environ if environ is None else environ).get(FILE_VARIABLE)
    path = Path(named or DEFAULT_FILE)
    return path if named or path.exists() else None


def load_config(environ: Mapping[str, str] | None = None) -> Config:
    """Read the file named by ``CORREIO_CONFIG`` and lay the environment over it.

    Raises:
        ConfigError: naming the field, where its value came from, and what is allowed.
    """
    environ = os.environ if environ is None else environ
    path = config_file(environ)
    tree: dict[str, Any] = {}
    origin = "the defaults"
    if path is not None:
        tree, origin = _read_file(path), str(path)
    origins = _overlay(tree, environ)
    _read_secret_files(tree, origin)
    try:
        config = msgspec.convert(tree, Config, strict=True, dec_hook=_decode_secret)
    except msgspec.ValidationError as error:
        raise ConfigError(_explain(str(error), origin, origins)) from None
    _check_urls(config, origin, origins)
    _check(config, origin, origins)
    return config


def _read_file(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file; {FILE_VARIABLE} names it") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path}: {error}") from None


def _overlay(tree: dict[str, Any], environ: Mapping[str, str]) -> dict[str, str]:
    """Lay ``CORREIO_<SECTION>__<FIELD>`` over the tree; return which variable set which field."""
    origins: dict[str, str] = {}
    for variable in sorted(environ):
        if not variable.startswith(ENV_PREFIX) or "__" not in variable:
            continue
        section, _, name = variable[len(ENV_PREFIX) :].lower().partition("__")
        if section not in SECTIONS:
            allowed = ", ".join(SECTIONS)
            raise ConfigError(f"{variable}: no section {section!r}; sections are {allowed}")
        kinds = get_type_hints(type(getattr(Config(), section)), include_extras=True)
        text = environ[variable]
        if name not in kinds and name.endswith("_file"):
            name, text = name.removesuffix("_file"), _read_secret(text, variable)
            if kinds.get(name) is not Secret:
                raise ConfigError(f"{variable}: only secrets can be read from a file")
        if name not in kinds:
            allowed = ", ".join(sorted(kinds))
            raise ConfigError(f"{variable}: no field {name!r} in [{section}]; fields are {allowed}")
        table = tree.setdefault(section, {})
        if not isinstance(table, dict):
            raise ConfigError(f"[{section}] must be a table")
        table[name] = _parse_scalar(text, kinds[name], variable)
        origins[f"{section}.{name}"] = variable
    return origins


def _parse_scalar(text: str, kind: Any, variable: str) -> Any:
    if kind is Secret:
        return text
    try:
        if get_origin(kind) is tuple:
            return msgspec.json.decode(text, type=kind)
        return msgspec.convert(text, kind, strict=False)
    except msgspec.ValidationError as error:
        said = f"{error}{_choices(kind)}"
    except msgspec.DecodeError:
        said = 'expected a list written as JSON, such as [1, 2] or ["a", "b"]'
    raise ConfigError(f"{variable}: {said}; the value is {text!r}")


def _choices(kind: Any) -> str:
    """What a field allows that names its values one by one."""
    allowed = get_args(kind) if get_origin(kind) is Literal else ()
    return f"; allowed are {', '.join(allowed)}" if allowed else ""


def _read_secret(path: str, wanted_by: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{wanted_by}: cannot read {path}: {error}") from None


def _read_secret_files(tree: dict[str, Any], origin: str) -> None:
    """Put the secrets that live in files, one per line, before those written in the table."""
    for kind in ("source", "endpoint", "operator"):
        tables = tree.get(kind, [])
        for table in tables if isinstance(tables, list) else []:
            path = table.get("secrets_file") if isinstance(table, dict) else None
            if isinstance(path, str):
                lines = _read_secret(path, f"{origin}: {kind}.secrets_file").split()
                written = table.get("secrets", [])
                if isinstance(written, list):  # else the field's own type refuses it
                    table["secrets"] = [*lines, *written]


def _decode_secret(kind: type, value: Any) -> Any:
    if kind is Secret:
        if not isinstance(value, str):
            raise TypeError("Expected `str`")
        return Secret(value)
    raise NotImplementedError(kind)


def _explain(message: str, origin: str, origins: Mapping[str, str]) -> str:
    """Turn msgspec's ``… - at `$.a.b` `` into a sentence that names field and source."""
    fault, _, place = message.partition(" - at `$.")
    name = place.rstrip("`")
    section, _, member = name.partition(".")
    kinds = get_type_hints(type(getattr(Config(), section))) if section in SECTIONS else {}
    said = f"{fault}{_choices(kinds.get(member))}"
    return f"{name or 'configuration'}: {said} (from {origins.get(name, origin)})"


URLS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "broker.url": ("amqp", "amqps"),
        "broker.metrics_url": ("http", "https"),
        "telemetry.otlp_endpoint": ("http", "https"),
    }
)
"""Field → the schemes that its URL may have."""


def _check_urls(config: Config, origin: str, origins: Mapping[str, str]) -> None:
    """Refuse what no connection can be made of; the value, perhaps a secret, is not quoted."""
    for name, schemes in URLS.items():
        section, _, member = name.partition(".")
        value = getattr(getattr(config, section), member)
        text = value.reveal() if isinstance(value, Secret) else value
        if (text or isinstance(value, Secret)) and not _is_url(text, schemes):
            allowed = " or ".join(f"{scheme}://host" for scheme in schemes)
            raise ConfigError(f"{name}: expected {allowed} (from {origins.get(name, origin)})")


def _is_url(text: str, schemes: Collection[str]) -> bool:
    try:
        parts = urlsplit(text)
        return parts.scheme in schemes and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def _check(config: Config, origin: str, origins: Mapping[str, str]) -> None:
    """Rules that no single field can hold."""
    receiver = config.receiver
    if receiver.max_body_bytes > receiver.max_buffered_bytes:
        raise ConfigError(
            "receiver.max_body_bytes: expected at most receiver.max_buffered_bytes, "
            f"{receiver.max_buffered_bytes} (from "
            f"{origins.get('receiver.max_body_bytes', origin)})"
        )
    KeyRing.read(config.sealing.keys.reveal())
    if config.sealing.index_key:
        read_key(config.sealing.index_key.reveal(), "sealing.index_key")
    for kind, names in (
        ("source", [source.name for source in config.source]),
        ("endpoint", [endpoint.id for endpoint in config.endpoint]),
        ("operator", [operator.name for operator in config.operator]),
    ):
        doubled = {name for name in names if names.count(name) > 1}
        if doubled:
            raise ConfigError(f"{kind}: {', '.join(sorted(doubled))} stands twice (from {origin})")
    _check_secrets(config, origin)


def _check_secrets(config: Config, origin: str) -> None:
    for source in config.source:
        if source.require_signature and not source.secrets:
            raise ConfigError(
                f"source {source.name}: secrets is empty but require_signature is true "
                f"(from {origin}); give a secret or set require_signature = false"
            )
        if any(len(secret.reveal().strip()) < SECRET_LENGTH for secret in source.secrets):
            raise ConfigError(
                f"source {source.name}: secrets must have at least {SECRET_LENGTH} characters "
                f"each (from {origin})"
            )
    for endpoint in config.endpoint:
        if not endpoint.secrets:
            raise ConfigError(f"endpoint {endpoint.id}: secrets is empty (from {origin})")
    for operator in config.operator:
        if not operator.secrets or any(len(s.reveal()) < TOKEN_LENGTH for s in operator.secrets):
            raise ConfigError(
                f"operator {operator.name}: secrets must hold tokens of at least {TOKEN_LENGTH} "
                f"characters (from {origin})"
            )

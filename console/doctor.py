"""``correio doctor``: what is wrong with this set-up, and the remedy for each fault."""

import contextlib
import shutil
import sys
import tempfile
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path

import click
from msgspec import Struct

from console.context import NO, Context, iso, json_option, pass_context, run
from console.spool import is_elsewhere, look_into, why_unseen
from shared.broker.depth import QueueDepth, depths, serves
from shared.clock import SystemClock
from shared.config import DEFAULT_FILE, FILE_VARIABLE, Config, config_file
from shared.eraser import Eraser
from shared.errors import (
    BrokerUnavailableError,
    ConfigError,
    CorreioError,
    SchemaError,
    SealingKeyError,
    StoreDamagedError,
    StoreUnavailableError,
    TopologyError,
)
from shared.fanout import Subscriptions
from shared.networks import read_networks
from shared.rewrap import count_by_key
from shared.sealing import SEALED, KeyRing
from shared.store.locate import sqlite_path
from shared.store.open import open_store
from shared.store.port import SqlStore
from shared.store.queries import Queries
from shared.targets import read_targets

LOW_DISK = 512 * 1024 * 1024

CLOCK_TOLERANCE = 5.0
"""Seconds that two clocks may differ."""

_OLDEST_PAYLOAD = "SELECT received_at, body FROM payloads ORDER BY seq LIMIT 1"
_MEND = "mend the field named; deploy/config.example.toml shows every field"

_NO_FILE = (
    f"no file is named and no {DEFAULT_FILE} lies in {{folder}}; "
    "the environment and the defaults hold"
)

_TLS_REMEDY = (
    "let {parameter} in {field} name a file with the certificate of the authority that signed the "
    "server's, and let the host be spelled as in that certificate"
)


class Finding(Struct, frozen=True):
    """One thing looked at: what was found, and what to do about it if it is a fault."""

    name: str
    ok: bool
    found: str
    remedy: str = ""


@click.command()
@json_option
@pass_context
def doctor(context: Context, as_json: bool) -> None:  # noqa: FBT001 - click passes it
    """Check configuration, broker, queues, store, schema, disk and clock; name each remedy."""
    findings = run(_examine(context))
    answer = {
        "healthy": all(one.ok for one in findings),
        "findings": [
            {"name": f.name, "ok": f.ok, "found": f.found, "remedy": f.remedy or None}
            for f in findings
        ],
    }

    def human() -> None:
        for one in findings:
            click.echo(f"{'ok    ' if one.ok else 'FAULT '} {one.name}: {one.found}")
            if one.remedy:
                click.echo(f"       remedy: {one.remedy}")

    context.show(answer, as_json=as_json, human=human)
    if not answer["healthy"]:
        sys.exit(NO)


async def _examine(context: Context) -> list[Finding]:
    file = config_file()
    try:
        config = context.config
    except ConfigError as error:
        there = file is None or file.exists()
        remedy = _MEND if there else f"put the file there, or let {FILE_VARIABLE} name another"
        return [Finding("configuration", ok=False, found=str(error), remedy=remedy)]
    looks = (
        _sources, _endpoints, _broker, _store, _sealing, _disk,
    )  # fmt: skip
    found = f"read from {file}" if file else _NO_FILE.format(folder=Path.cwd())
    findings = [Finding("configuration", ok=True, found=found)]
    findings += [await look(config) for look in looks]
    now = context.clock.now()
    return [*findings, _spool(config, now=now), await _clock(config, now=now)]


async def _sources(config: Config) -> Finding:
    if not config.source:
        remedy = "add a [[source]] table with a name and secrets"
        return Finding("sources", ok=False, found="none is configured", remedy=remedy)
    try:
        read_networks(config.receiver.trusted_proxies, field="receiver.trusted_proxies")
        for one in config.source:
            read_networks(one.allowed_networks, field=f"source {one.name}: allowed_networks")
    except ConfigError as error:
        return Finding("sources", ok=False, found=str(error), remedy=_MEND)
    unsigned = [one.name for one in config.source if not one.require_signature]
    if unsigned:
        remedy = "set require_signature = true"
        found = f"unsigned requests are accepted from {', '.join(unsigned)}"
        return Finding("sources", ok=False, found=found, remedy=remedy)
    return Finding("sources", ok=True, found=", ".join(one.name for one in config.source))


async def _endpoints(config: Config) -> Finding:
    if not config.endpoint:
        remedy = "add an [[endpoint]] table with id, url and secrets"
        return Finding("endpoints", ok=False, found="none is configured", remedy=remedy)
    try:
        read_targets(config.endpoint)
        Subscriptions(config.endpoint)
    except ConfigError as error:
        return Finding("endpoints", ok=False, found=str(error), remedy=_MEND)
    return Finding("endpoints", ok=True, found=", ".join(one.id for one in config.endpoint))


async def _sealing(config: Config) -> Finding:
    """Without a key the store works, and only theft of the whole store is not guarded against."""
    ring = KeyRing.read(config.sealing.keys.reveal())
    store, clear = open_store(config.store, config.sealing), ""
    try:
        await store.start()
        clear = await _clear(store)
        counts = await count_by_key(store)
        await Eraser(store, config, clock=SystemClock()).require_keys()
    except SealingKeyError as error:
        remedy = "restore the keys: deploy/README.md, Backup and restore"
        return Finding("sealing", ok=False, found=str(error), remedy=remedy)
    except CorreioError:  # the finding of the store says why
        counts = {}
    finally:
        await store.close()
    if not ring.ids:
        found = f"no key is configured: data keys rest unwrapped{clear}"
        return Finding("sealing", ok=True, found=found, remedy="see deploy/README.md, Keys")
    missing = [one for one in counts if one not in ring.ids and one]
    if missing:
        remedy = "put them back into sealing.keys, after the first one"
        found = f"in use but not configured: {', '.join(missing)}"
        return Finding("sealing", ok=False, found=found, remedy=remedy)
    old = sum(count for one, count in counts.items() if one != ring.first)
    said = f"; {old} data keys wait for `correio keys rewrap`" if old else ""
    return Finding("sealing", ok=True, found=f"{ring.first} wraps{said}{clear}")


async def _clear(store: SqlStore) -> str:
    """What to add if the oldest payload lies in clear, as a release before sealing stored it."""
    for at, body in await store.fetch(_OLDEST_PAYLOAD):
        if not bytes(body).startswith(SEALED):
            since = str(iso(at))[:10]
            return f"; what was stored before there was sealing lies in clear, since {since}"
    return ""


async def _broker(config: Config) -> Finding:
    try:
        found = await depths(config.broker.url, connect_timeout=config.broker.connect_timeout)
    except BrokerUnavailableError as error:
        remedy = "start RabbitMQ, or mend broker.url (host, port, user, password, virtual host)"
        if _speaks_of_tls(error):
            remedy = _TLS_REMEDY.format(field="broker.url", parameter="cafile")
        return Finding("broker", ok=False, found=str(error), remedy=remedy)
    except TopologyError as error:
        return Finding("broker", ok=False, found=str(error), remedy="run `correio migrate`")
    if broken := await _broken(config, found):
        remedy = (
            "restart the broker once; if that does not help `rabbitmqctl delete_queue NAME` and "
            "`correio migrate` (Queue broken in deploy/runbooks.md)"
        )
        names = ", ".join(broken)
        return Finding("broker", ok=False, found=f"it cannot serve {names}", remedy=remedy)
    dead = sum(one.ready for one in found if one.name == "correio.dead")
    if dead:
        remedy = "start an events worker: it picks dead letters up into the quarantine"
        return Finding("broker", ok=False, found=f"{dead} dead letters wait", remedy=remedy)
    return Finding("broker", ok=True, found=f"reachable, {len(found)} queues in place")


async def _broken(config: Config, found: Sequence[QueueDepth]) -> list[str]:
    """Queues that are in the broker's books, but that it cannot serve."""
    timeout = config.broker.connect_timeout
    broken = []
    for one in found:
        if not one.ready and not one.consumers:
            with contextlib.suppress(TopologyError):  # it may not be read by us
                if not await serves(config.broker.url, one.name, connect_timeout=timeout):
                    broken.append(one.name)
    return broken


async def _store(config: Config) -> Finding:
    remedy = ""
    fault: CorreioError
    try:
        store = open_store(config.store, config.sealing)
        try:
            await store.start()
            await store.ping()
        finally:
            await store.close()
    except SchemaError as error:
        fault, remedy = error, "run `correio migrate` of the release that you run"
    except StoreDamagedError as error:
        fault, remedy = error, "restore the file from a backup; this one is damaged"
    except StoreUnavailableError as error:
        fault, remedy = error, _store_remedy(config)
        if _speaks_of_tls(error):
            remedy = _TLS_REMEDY.format(field="store.url", parameter="sslrootcert")
    except ConfigError as error:
        fault, remedy = error, "set store.url to sqlite:///path or postgresql://…"
    if remedy:
        return Finding("store", ok=False, found=str(fault), remedy=remedy)
    return Finding("store", ok=True, found="reachable, schema up to date, can be written to")


async def _clock(config: Config, *, now: int) -> Finding:
    """Signatures, due times and late events all go by the clock; compare it with what there is.

    That is the clock of PostgreSQL, and the newest events, none of which can be of tomorrow.
    """
    try:
        store = open_store(config.store, config.sealing)
        try:
            await store.start()
            newest = await Queries(store).newest_receipt()
            ahead = [newest - now] if newest is not None else []
            if sqlite_path(config.store.url) is None:
                other = await Queries(store).postgres_clock()
                ahead += [other - now, now - other]
        finally:
            await store.close()
    except CorreioError:
        return Finding("clock", ok=True, found="not compared: the store cannot be read")
    off = max(ahead, default=0) / 1000
    if off > CLOCK_TOLERANCE:
        found = f"{off:.0f} s away from that of the database or of the events stored"
        remedy = "let chrony or systemd-timesyncd set the clocks of all machines"
        return Finding("clock", ok=False, found=found, remedy=remedy)
    return Finding("clock", ok=True, found="agrees with the store")


def _speaks_of_tls(error: CorreioError) -> bool:
    said = str(error).lower()
    return any(word in said for word in ("certificate", "ssl", "cafile", "certfile", "keyfile"))


def _store_remedy(config: Config) -> str:
    path = sqlite_path(config.store.url)
    if path is None:
        return "start PostgreSQL, or mend store.url (host, port, user, password, database)"
    if not path.exists():
        return f"run `correio migrate`, which makes {path}, or mend store.url"
    return f"see who holds or owns {path}: another process may lock it, or the disk may be full"


def _names(folder: Path) -> list[str]:
    return [one.name for one in folder.iterdir()] if folder.is_dir() else []


def _spool(config: Config, *, now: int) -> Finding:
    """A machine without a receiver has no spool, and that is no fault of it."""
    found = look_into(config, now=now)
    if found is not None:
        said = f"{found.events} events in {config.receiver.spool}"
        return Finding("spool", ok=True, found=said)
    said = f"not read: {why_unseen(config)}"
    if is_elsewhere(config):
        return Finding("spool", ok=True, found=said)
    remedy = "look as the receiver's user; else see Spool damaged in deploy/runbooks.md"
    return Finding("spool", ok=False, found=said, remedy=remedy)


async def _disk(config: Config) -> Finding:
    folder = Path(config.receiver.spool)
    place = next((one for one in (folder, *folder.parents) if one.exists()), Path())
    try:
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as error:
        remedy = f"make {place} writable for the receiver, or set receiver.spool elsewhere"
        return Finding("disk", ok=False, found=f"{place}: {error.strerror}", remedy=remedy)
    free = shutil.disk_usage(place).free
    wanted = max(LOW_DISK, config.receiver.spool_min_free_bytes)
    if free < wanted:
        remedy = f"free at least {wanted} bytes, or lower receiver.spool_min_free_bytes"
        return Finding("disk", ok=False, found=f"{place}: {free} bytes free", remedy=remedy)
    damaged = sum(fnmatch(name, "damaged-*.db") for name in _names(folder))
    if damaged:
        remedy = f"look into the damaged files in {folder}, then remove them"
        return Finding("disk", ok=False, found=f"{damaged} damaged spool files", remedy=remedy)
    return Finding("disk", ok=True, found=f"{place}: {free} bytes free")

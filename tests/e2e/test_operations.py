"""What deploy/README.md tells operators to do, done to real processes under load."""

import asyncio
import contextlib
import json
import os
import random
import re
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import aio_pika
import aiohttp
import pytest
from yarl import URL

from deploy.local.postgres import Postgres
from deploy.local.provide import PrivateBroker
from deploy.local.rabbitmq import Node, free_port
from shared.broker import topology
from shared.errors import TopologyError
from shared.store.schema import load_migrations
from tests.support import books
from tests.support.deliveries import until
from tests.support.processes import ROOT
from tests.support.world import ROLES, Way, World, world

DEPLOY = ROOT / "deploy"
KINDS = ("events", "callbacks")


def block(name: str) -> str:
    """The shell commands of deploy/README.md that stand under a marker."""
    text = (DEPLOY / "README.md").read_text()
    (found,) = re.findall(rf"<!-- {name} -->\n```sh\n(.*?)```", text, re.DOTALL)
    return str(found)


def shell(script: str, folder: Path, **env: str) -> str:
    """Run commands as an operator would, ``correio`` being on the PATH."""
    done = subprocess.run(
        ["sh", "-euc", script],
        cwd=folder,
        env={
            **os.environ,
            **env,
            "PATH": f"{Path(sys.executable).parent}:{env.get('PATH', os.environ['PATH'])}",
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, f"{script}\n{done.stdout}{done.stderr}"
    return done.stdout


async def load(everything: World, *, rate: float) -> AsyncIterator[None]:
    """Batches, for as long as this is iterated over."""
    while True:
        await everything.source.send(rate=rate, seconds=0.5)
        yield


async def under_load(everything: World, work: "asyncio.Task[None]", *, rate: float = 40) -> None:
    async for _ in load(everything, rate=rate):
        if work.done():
            break
    await work


async def further(everything: World, events: int) -> None:
    """Return once the source has sent that many events more."""
    made = everything.source.made
    wanted = len(made) + events
    await until(lambda: len(made) >= wanted, limit=120)


async def replace(everything: World, name: str, *, after: int = 0) -> None:
    """End a process as a supervisor does, and start it anew `after` some events more.

    The receiver is started at once: without it no event comes.
    """
    part = everything.parts[name]
    assert await asyncio.to_thread(part.stop, within=20) == 0
    if name != "receiver":
        await further(everything, after)
    part.start()
    await part.until_ready()


@pytest.mark.deep
@pytest.mark.timeout(900)
async def test_workers_join_and_leave_and_everything_is_restarted(
    tmp_path: Path, private_broker: PrivateBroker, private_postgres: Postgres
) -> None:
    """1, 2, 4, 2 and 1 workers of each kind, then a hundred restarts of processes at random."""
    chance = random.Random(23)

    async def scale(everything: World) -> None:
        await further(everything, 160)
        for number in (2, 3, 4):
            for kind in KINDS:
                await everything.add(kind, name=f"{kind}-{number}").until_ready()
            await further(everything, 240 if number in (2, 4) else 0)
        for _ in range(100):
            name = chance.choice([one for one in everything.parts if one != "receiver"] * 2
                                 + ["receiver"])  # fmt: skip
            await replace(everything, name, after=chance.randrange(24))
        for number in (4, 3, 2):
            for kind in KINDS:
                part = everything.parts[f"{kind}-{number}"]
                assert await asyncio.to_thread(part.stop, within=20) == 0
            await further(everything, 80)

    async with world(tmp_path, private_broker, private_postgres.url) as everything:
        await under_load(everything, asyncio.create_task(scale(everything)))
        await everything.settled()
        after = await everything.judge()
    print(  # noqa: T201 - the figures of a run
        f"\n{len(everything.source.made)} events, {after.duplicates} repeated, "
        f"{everything.source.repeats} batches sent again"
    )


def next_release(folder: Path, store: str) -> Path:
    """A copy of Correio with one migration more."""
    made = folder / "next"
    for part in ("receiver", "worker", "shared", "console"):
        shutil.copytree(ROOT / part, made / part, ignore=shutil.ignore_patterns("__pycache__"))
    dialect = "sqlite" if store.startswith("sqlite") else "postgres"
    number = len(load_migrations(dialect)) + 1
    place = made / "shared" / "store" / "migrations" / dialect / f"{number:04}_next.expand.sql"
    place.write_text(
        "ALTER TABLE events ADD COLUMN next INTEGER;\n"
        "ALTER TABLE deliveries ADD COLUMN next INTEGER;\n"
        "CREATE INDEX events_next ON events (next);\n"
    )
    return made


@pytest.mark.deep
@pytest.mark.timeout(240)
async def test_an_upgrade_under_load(
    tmp_path: Path, private_broker: PrivateBroker, store_url: str
) -> None:
    """The store first, then every process; one of the old release starts on the new schema too."""
    made = next_release(tmp_path, store_url)

    async def upgrade(everything: World) -> None:
        await further(everything, 80)
        command = f"{sys.executable} -m console.cli migrate"
        env = {"CORREIO_CONFIG": str(everything.config), "PYTHONPATH": str(made)}
        said = await asyncio.to_thread(shell, command, made, **env)
        assert "_next.expand" in said
        await replace(everything, "events")
        for name, part in everything.parts.items():
            part.root = made
            await replace(everything, name)
            await further(everything, 40)

    async with world(tmp_path, private_broker, store_url) as everything:
        await under_load(everything, asyncio.create_task(upgrade(everything)))
        await everything.settled()
        await everything.judge()


@pytest.mark.deep
@pytest.mark.timeout(240)
async def test_backup_and_restore(
    tmp_path: Path, private_broker: PrivateBroker, store_url: str, request: pytest.FixtureRequest
) -> None:
    """By the README's commands. What came after the backup is sent again by the source."""
    kind = "sqlite" if store_url.startswith("sqlite") else "postgres"
    env = {"FILE": str(tmp_path / "backup"), "STORE": store_url,
           "DATABASE": store_url.removeprefix("sqlite:///")}  # fmt: skip
    if kind == "postgres":
        server: Postgres = request.getfixturevalue("postgres")
        env["PATH"] = f"{server.programs}:{os.environ['PATH']}"
    async with world(tmp_path, private_broker, store_url) as everything:
        env["CORREIO_CONFIG"] = str(everything.config)
        await everything.source.send(rate=20, seconds=2)
        await everything.applied()
        await asyncio.to_thread(shell, block(f"backup-{kind}"), tmp_path, **env)
        saved = len(everything.source.made)
        await everything.source.send(rate=20, seconds=1)
        await everything.settled()
        for name in KINDS:
            assert everything.parts[name].stop() == 0
        await asyncio.to_thread(shell, block(f"restore-{kind}"), tmp_path, **env)
        stored = books.fetch(store_url, "SELECT count(*) FROM events")
        assert stored[0][0] >= saved
        assert stored[0][0] < len(everything.source.made)
        for name in KINDS:
            everything.parts[name].start()
        await everything.source.send_again()
        await everything.settled()
        after = books.read(store_url)
        books.check(after)
        books.compare_with_model(after, everything.source.made)
        assert await books.audit_faults(store_url) == []
        told = {one for (one,) in books.fetch(store_url, "SELECT id FROM deliveries")}
        assert told <= set(everything.endpoint.by_id)  # besides what was told before the restore


@pytest.mark.deep
@pytest.mark.timeout(240)
async def test_the_brokers_data_is_lost(tmp_path: Path, private_broker: PrivateBroker) -> None:
    """By the runbook's command; no process is restarted, and callbacks come from the store."""
    store = f"sqlite:///{tmp_path}/correio.db"
    async with world(tmp_path, private_broker, store) as everything:
        everything.endpoint.always = 503
        await everything.source.send(rate=20, seconds=1)
        await everything.applied()
        await asyncio.to_thread(private_broker.kill)
        await asyncio.to_thread(private_broker.wipe)
        await asyncio.to_thread(private_broker.start)
        env = {"CORREIO_CONFIG": str(everything.config)}
        await asyncio.to_thread(shell, block("broker-lost"), tmp_path, **env)
        everything.endpoint.always = 200
        await everything.source.send(rate=20, seconds=1)
        await everything.settled()
        await everything.judge()


def add_users(folder: Path, broker: Node) -> None:
    """Make every user of deploy/rabbitmq by its script; the password of each is ``secret``."""
    secrets = folder / "secrets"
    secrets.mkdir(exist_ok=True)
    for line in (DEPLOY / "rabbitmq" / "rights.txt").read_text().splitlines():
        if not line.startswith("#"):
            (secrets / line.split()[0]).write_text("secret\n")
    ctl = folder / "ctl"
    ctl.write_text(broker.ctl_script())
    ctl.chmod(0o755)
    shell(f"{DEPLOY}/rabbitmq/add-users.sh {secrets}", folder, RABBITMQCTL=str(ctl))


def test_users_may_have_any_password(tmp_path: Path) -> None:
    passwords = {"correio-admin": 'a "b" \\c $d', "correio-console": "ação"}
    rights = [
        line.split()
        for line in (DEPLOY / "rabbitmq" / "rights.txt").read_text().splitlines()
        if not line.startswith("#")
    ]
    for user, *_ in rights:
        (tmp_path / user).write_text(passwords.get(user, "secret") + "\n")
    printed = shell(f"{DEPLOY}/rabbitmq/add-users.sh --print {tmp_path} /our", tmp_path)
    made = json.loads(printed)
    assert {one["name"]: one["password"] for one in made["users"]} == {
        user: passwords.get(user, "secret") for user, *_ in rights
    }
    assert [
        [one["user"], one["configure"], one["write"], one["read"]] for one in made["permissions"]
    ] == [one[:4] for one in rights]
    assert {one["vhost"] for one in made["permissions"]} == {"/our"}


@pytest.mark.timeout(120)
async def test_a_broker_begins_with_the_users_of_compose(tmp_path: Path) -> None:
    shell(f"{DEPLOY}/compose/make-secrets.sh {tmp_path}", tmp_path)
    (line,) = re.findall(
        r"^load_definitions.*$", (DEPLOY / "compose" / "rabbitmq.conf").read_text(), re.MULTILINE
    )
    there = line.replace("/etc/rabbitmq/correio.json", str(tmp_path / "rabbitmq-definitions"))
    node = Node(tmp_path / "node", settings=there + "\n")
    await asyncio.to_thread(node.start)
    try:
        for role, may in (("events", False), ("admin", True)):
            url = (tmp_path / f"broker-url-{role}").read_text().strip()
            declared = topology.declare(url.replace("rabbitmq:5672", f"127.0.0.1:{node.port}"))
            with contextlib.nullcontext() if may else pytest.raises(TopologyError):
                await declared
        assert "correio\t" not in await asyncio.to_thread(node.rabbitmqctl, "list_users")
    finally:
        await asyncio.to_thread(node.stop)


def url_of(broker: Node, user: str) -> str:
    ours, _, place = broker.url.removeprefix("amqp://").partition("@")
    assert ours.startswith("correio:")
    return f"amqp://{user}:secret@{place}"


@pytest.mark.timeout(240)
async def test_each_role_works_with_the_least_rights(
    tmp_path: Path, private_broker: PrivateBroker
) -> None:
    """The users of deploy/rabbitmq; only the one who migrates may make queues."""
    assert isinstance(private_broker, Node)
    await asyncio.to_thread(add_users, tmp_path, private_broker)

    def url(role: str) -> str:
        return url_of(private_broker, f"correio-{role}")

    await topology.declare(url("admin"))
    env = {
        role: {"CORREIO_BROKER__URL": url(role), "CORREIO_BROKER__DECLARE_MISSING": "false"}
        for role in (*ROLES, "console")
    }
    store = f"sqlite:///{tmp_path}/correio.db"
    async with world(
        tmp_path, private_broker, store, way=Way(env=env),
        console={"port": 0, "sample_interval": 0.2},
    ) as everything:  # fmt: skip
        await everything.source.send(rate=20, seconds=2)
        await everything.settled()
        await everything.judge()
        for part in everything.parts.values():
            await asyncio.to_thread(part.stop)
            assert "ACCESS_REFUSED" not in part.log.read_text()


@pytest.mark.deep
@pytest.mark.timeout(240)
async def test_the_autoscaler_sees_ready_and_unacknowledged_messages_with_the_least_rights(
    tmp_path: Path,
) -> None:
    """What KEDA asks the management plugin, as the user who may do nothing but look."""
    port = free_port()
    settings = f"management.tcp.ip = 127.0.0.1\nmanagement.tcp.port = {port}\n"
    node = Node(tmp_path / "rabbitmq", settings=settings, plugins=("rabbitmq_management",))
    await asyncio.to_thread(node.start)
    try:
        for _ in range(2):  # it may be run again
            await asyncio.to_thread(add_users, tmp_path, node)
        await topology.declare(url_of(node, "correio-admin"))
        place = f"http://127.0.0.1:{port}/api/queues/%2F/{topology.EVENTS}"
        headers = {"Authorization": aiohttp.encode_basic_auth("correio-scaler", "secret")}
        async with (
            await aio_pika.connect(url_of(node, "correio-events")) as connection,
            await aio_pika.connect(url_of(node, "correio-receiver")) as sending,
            aiohttp.ClientSession(headers=headers) as session,
        ):
            exchange = await (await sending.channel()).get_exchange(topology.EVENTS, ensure=False)
            for _ in range(3):
                await exchange.publish(aio_pika.Message(b"{}"), topology.EVENTS)
            channel = await connection.channel()
            queue = await channel.get_queue(topology.EVENTS, ensure=False)
            await queue.get()
            async with asyncio.timeout(60):
                seen: dict[str, int] = {}
                while (seen.get("messages"), seen.get("messages_unacknowledged")) != (3, 1):
                    async with session.get(URL(place, encoded=True)) as answer:
                        assert answer.status == 200
                        seen = await answer.json()
                    await asyncio.sleep(0.2)
            async with session.delete(URL(place, encoded=True)) as answer:
                assert answer.status == 401
    finally:
        await asyncio.to_thread(node.stop)

import asyncio
import signal
import socket
import subprocess
import sys
from pathlib import Path

import aio_pika
import psutil
import pytest

from deploy.local.rabbitmq import (
    LOOPBACK,
    BrokerError,
    Node,
    find_scripts,
    free_port,
    speaks_amqp,
)
from shared.broker import topology

QUEUE = "kept"


async def put(url: str, body: bytes) -> None:
    connection = await aio_pika.connect(url, timeout=10)
    async with connection, connection.channel() as channel:
        arguments = {"x-queue-type": "quorum"}
        await channel.declare_queue(QUEUE, durable=True, arguments=arguments)
        await channel.default_exchange.publish(aio_pika.Message(body, delivery_mode=2), QUEUE)


async def read(url: str, count: int) -> list[bytes]:
    """The first messages of the queue, waited for, since a leader is elected after a kill."""
    connection = await aio_pika.connect(url, timeout=10)
    async with connection, connection.channel() as channel:
        queue = await channel.declare_queue(QUEUE, passive=True)
        async with asyncio.timeout(20), queue.iterator() as messages:
            return [(await anext(messages)).body for _ in range(count)]


async def test_a_confirmed_message_survives_stop_and_kill_and_is_lost_by_wipe(
    private_broker: Node,
) -> None:
    url = private_broker.url
    await put(url, b"1")
    await asyncio.to_thread(private_broker.restart)
    assert private_broker.url == url
    await put(url, b"2")
    await asyncio.to_thread(private_broker.kill)
    assert not private_broker.running
    assert not speaks_amqp(private_broker.port)
    await asyncio.to_thread(private_broker.start)
    assert await read(url, 2) == [b"1", b"2"]
    await asyncio.to_thread(private_broker.stop)
    private_broker.wipe()
    await asyncio.to_thread(private_broker.start)
    with pytest.raises(aio_pika.exceptions.ChannelNotFoundEntity):
        await read(url, 1)


def test_a_paused_node_is_silent_a_resumed_one_answers_and_both_can_be_stopped(
    private_broker: Node,
) -> None:
    private_broker.pause()
    assert not speaks_amqp(private_broker.port)
    private_broker.resume()
    assert speaks_amqp(private_broker.port)
    pids = private_broker.pids
    private_broker.pause()
    private_broker.stop()
    assert not any(psutil.pid_exists(pid) for pid in pids)


def test_wiping_a_running_node_is_refused(broker_node: Node) -> None:
    with pytest.raises(BrokerError, match="runs"):
        broker_node.wipe()


def test_it_listens_on_the_loopback_interface_only(broker_node: Node) -> None:
    listening = {
        connection.laddr.ip
        for pid in broker_node.pids
        for connection in psutil.Process(pid).net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    }
    assert listening <= {"127.0.0.1", "::1"}


def test_rabbitmqctl_reaches_the_node(broker_node: Node) -> None:
    assert broker_node.rabbitmqctl("eval", "node().") == "correio@localhost"


def test_a_failing_command_says_why(broker_node: Node) -> None:
    with pytest.raises(BrokerError, match="undef"):
        broker_node.evaluate("nosuch:thing()")
    with pytest.raises(BrokerError, match="nosuch"):
        broker_node.rabbitmqctl("nosuch")


def test_secrets_are_readable_by_their_owner_only(broker_node: Node) -> None:
    folder = broker_node.folder
    assert folder.stat().st_mode & 0o077 == 0
    for name in ("password", ".erlang.cookie"):
        assert (folder / name).stat().st_mode & 0o077 == 0


async def test_each_test_has_a_virtual_host_of_its_own(broker_node: Node, broker_url: str) -> None:
    await topology.declare(broker_url)
    other = broker_node.add_vhost("other")
    with pytest.raises(aio_pika.exceptions.ChannelNotFoundEntity):
        await read(other, 1)
    broker_node.delete_vhost("other")


_PARENT = """
import os, sys, threading
from pathlib import Path
from deploy.local.rabbitmq import Node

node = Node(Path(sys.argv[1]))
starter = threading.Thread(target=node.start)
starter.start()
starter.join()
print(*node.pids, flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_nothing_outlives_its_parent(tmp_path: Path, number: signal.Signals) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", _PARENT, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert parent.stdin is not None
    assert parent.stdout is not None
    with parent.stdin, parent.stdout:
        pids = [int(word) for word in parent.stdout.readline().split()]
        processes = [psutil.Process(pid) for pid in pids]
        parent.send_signal(number)
        parent.wait(10)
    _, alive = psutil.wait_procs(processes, timeout=10)
    assert len(pids) == 2
    assert alive == []


def test_what_cannot_start_says_so_and_leaves_nothing(tmp_path: Path) -> None:
    scripts = tmp_path / "scripts"
    scripts.mkdir()
    server = scripts / "rabbitmq-server"
    server.write_text("#!/bin/sh\necho no such luck\nexit 1\n")
    server.chmod(0o755)
    node = Node(tmp_path / "node", scripts=scripts)
    with pytest.raises(BrokerError, match="no such luck"):
        node.start()
    assert node.pids == []


def test_an_installed_server_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CORREIO_RABBITMQ_SCRIPTS", str(tmp_path))
    assert find_scripts() is None
    (tmp_path / "rabbitmq-server").touch()
    assert find_scripts() == tmp_path


def test_ports_lie_below_those_of_outgoing_connections() -> None:
    limit = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    assert free_port() < limit


def test_a_port_is_given_once_and_to_servers_alone() -> None:
    port = free_port()
    with socket.socket() as asking, pytest.raises(OSError, match="in use"):
        asking.bind((LOOPBACK, port))
    with socket.create_server((LOOPBACK, port)) as server:
        assert server.getsockname()[1] == port

"""Where a broker comes from, way by way; what the machine has is faked by files on the PATH."""

import asyncio
import sys
from pathlib import Path

import pytest

from deploy.local import container, install, provide
from deploy.local.container import ContainerNode
from deploy.local.provide import NamedBroker, find_broker
from deploy.local.rabbitmq import BrokerError, Node, free_port


def program(folder: Path, name: str, script: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine without RabbitMQ, engine and package manager; returns the only folder on PATH."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CORREIO_RABBITMQ_SCRIPTS", str(tmp_path / "none"))
    return tmp_path


def test_the_named_broker_comes_first_if_it_answers(broker_url: str, tmp_path: Path) -> None:
    broker = find_broker(tmp_path, named=broker_url)
    assert isinstance(broker, NamedBroker)
    assert broker.url == broker_url


@pytest.mark.parametrize("fault", ["port", "password", "text"])
def test_a_named_broker_that_cannot_be_used_is_said_and_passed_over(
    broker_url: str, tmp_path: Path, fault: str
) -> None:
    named = {
        "port": f"amqp://guest:guest@127.0.0.1:{free_port()}/",
        "password": broker_url.replace("correio:", "correio:not"),
        "text": "not a url",
    }[fault]
    said: list[str] = []
    assert isinstance(find_broker(tmp_path, named=named, say=said.append), Node)
    assert "does not answer" in said[0]


def test_an_engine_that_does_not_answer_is_no_engine(bare: Path) -> None:
    program(bare, "docker", "exit 1")
    assert container.find_engine() is None
    program(bare, "podman", "exit 0")
    assert container.find_engine() == "podman"


def test_without_rabbitmq_an_engine_is_used(bare: Path) -> None:
    program(bare, "docker", "exit 0")
    assert isinstance(find_broker(bare / "data"), ContainerNode)


def test_without_anything_the_message_says_what_to_do(bare: Path) -> None:
    with pytest.raises(BrokerError, match="apt-get install rabbitmq-server"):
        find_broker(bare)


def test_installing_can_be_forbidden(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(bare, "apt-get", "exit 1")
    monkeypatch.setattr("os.geteuid", lambda: 0)
    assert install.may_install()
    monkeypatch.setenv("CORREIO_NO_INSTALL", "1")
    assert not install.may_install()


def test_the_package_is_installed_where_that_is_permitted(
    bare: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripts = bare / "scripts"
    monkeypatch.setenv("CORREIO_RABBITMQ_SCRIPTS", str(scripts))
    monkeypatch.setattr(provide, "may_install", lambda: True)

    def installed() -> None:
        scripts.mkdir()
        (scripts / "rabbitmq-server").touch()

    monkeypatch.setattr(provide, "install_rabbitmq", installed)
    said: list[str] = []
    assert isinstance(find_broker(bare / "data", say=said.append), Node)
    assert said == [
        "Installing rabbitmq-server from the distribution (its service is not started) …"
    ]


# Stands for an engine: `run` greets as a broker does until it is told to stop.
_ENGINE = """
echo "$@" >> {calls}
case $1 in
run) echo $$ > {pid}; exec {python} -c '
import socket, sys
port = int(sys.argv[sys.argv.index("--publish") + 1].split(":")[1])
server = socket.create_server(("127.0.0.1", port))
while True:
    client, _ = server.accept()
    client.recv(8)
    client.sendall(bytes([1]))
    client.close()
' "$@" ;;
stop | kill) read number < {pid}; kill $number ;;
esac
"""


async def test_a_container_is_run_on_the_loopback_interface_and_stopped(bare: Path) -> None:
    calls, pid = bare / "calls", bare / "pid"
    script = _ENGINE.format(calls=calls, pid=pid, python=sys.executable)
    program(bare, "docker", script)
    node = ContainerNode(bare / "data", engine=str(bare / "docker"))
    await asyncio.to_thread(node.start)
    assert node.running
    run = calls.read_text().splitlines()[0]
    assert f"--publish 127.0.0.1:{node.url.split(':')[-1].split('/')[0]}:5672" in run
    password = node.url.split(":")[2].split("@")[0]
    assert password not in run
    with pytest.raises(BrokerError, match="runs"):
        node.wipe()
    await asyncio.to_thread(node.restart)
    await asyncio.to_thread(node.kill)
    assert not node.running
    node.wipe()
    verbs = [line.split()[0] for line in calls.read_text().splitlines()]
    assert verbs == ["run", "stop", "run", "kill", "volume"]

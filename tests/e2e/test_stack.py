"""The local stack as its users start it: by command, in a folder, ended by a signal."""

import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import msgspec
import psutil
import pytest

from deploy.local import scenario
from deploy.local.rabbitmq import free_port
from deploy.local.settings import prepare

ROOT = Path(__file__).resolve().parents[2]


class Run:
    """A supervisor in a folder of its own, and whatever it starts."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.output = ""
        self.env = {k: v for k, v in os.environ.items() if not k.startswith("CORREIO_")}
        self.env |= {
            "TMPDIR": str(folder),
            "CORREIO_RECEIVER__PORT": str(self.port),
            "CORREIO_CONSOLE__PORT": str(free_port()),
        }
        self.process: subprocess.Popen[str] | None = None

    def start(self, *arguments: str) -> "Run":
        self.process = subprocess.Popen(
            [sys.executable, "-u", "-m", "deploy.local", *arguments],
            cwd=ROOT,
            env=self.env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        return self

    def read_until(self, text: str) -> None:
        """Read its output up to a line that has `text`."""
        assert self.process is not None
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.output += line
            if text in line:
                return
        pytest.fail(f"{text!r} was never printed, but:\n{self.output}")

    def wait(self) -> int:
        assert self.process is not None
        rest, _ = self.process.communicate(timeout=90)
        self.output += rest
        return self.process.returncode

    def signal(self, number: signal.Signals) -> int:
        assert self.process is not None
        self.process.send_signal(number)
        return self.wait()

    def started(self) -> list[psutil.Process]:
        """Every process that was given our TMPDIR or works in our folder, but for ourselves."""
        return [p for p in psutil.process_iter() if p.pid != os.getpid() and self._is_ours(p)]

    def left_behind(self) -> list[psutil.Process]:
        """What still lives, the helpers of an ended node having had a moment to notice."""
        _, alive = psutil.wait_procs(self.started(), timeout=5)
        return alive

    def _is_ours(self, process: psutil.Process) -> bool:
        place = str(self.folder)
        try:
            return process.environ().get("TMPDIR") == place or place in process.environ().get(
                "HOME", ""
            )
        except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            return False

    def child(self, *module: str) -> psutil.Process:
        """The process that runs ``python -m`` with these arguments."""
        return next(p for p in self.started() if p.cmdline()[-len(module) :] == list(module))

    def correio(self, *arguments: str) -> dict[str, object]:
        command = '. "$0/env"; exec correio "$@" --json'
        done = subprocess.run(
            ["sh", "-c", command, str(self.folder / "var"), *arguments],
            env=self.env,
            cwd=self.folder,
            capture_output=True,
            check=True,
        )
        return msgspec.json.decode(done.stdout)


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    run = Run(tmp_path)
    yield run
    for process in run.started():
        process.kill()
    if run.process is not None:
        run.wait()


DEEP = pytest.mark.deep


@DEEP
def test_the_demo_sees_what_the_domain_demands_and_leaves_nothing(run: Run) -> None:
    assert run.start("demo", "--seed", "7").wait() == 0, run.output
    assert "shuffled by seed 7" in run.output
    assert run.left_behind() == []
    assert list(run.folder.iterdir()) == []


@pytest.mark.parametrize(
    "fault",
    [
        "wrong-secret",
        *(
            pytest.param(one, marks=DEEP)
            for one in ("lose-callback", "wrong-endpoint-secret", "lose-event", "endpoint-down")
        ),
    ],
)
def test_a_broken_expectation_makes_the_demo_fail(run: Run, fault: str) -> None:
    assert run.start("demo", "--break", fault).wait() == 1, run.output
    assert "FAILED" in run.output
    assert run.left_behind() == []


@pytest.mark.deep
@pytest.mark.parametrize("seed", range(10))
def test_the_demo_succeeds_in_any_order(run: Run, seed: int) -> None:
    assert run.start("demo", "--seed", str(seed)).wait() == 0, run.output


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=DEEP)])
def test_an_interrupted_demo_leaves_nothing(run: Run, number: signal.Signals) -> None:
    run.start("demo").read_until("Sending")
    assert run.signal(number) == 128 + number
    assert run.left_behind() == []
    assert list(run.folder.iterdir()) == []


def test_a_killed_supervisor_takes_everything_with_it(run: Run) -> None:
    run.start("run", "--folder", str(run.folder / "var")).read_until("Ctrl-C ends it")
    started = run.started()
    run.signal(signal.SIGKILL)
    _, alive = psutil.wait_procs(started, timeout=15)
    assert len(started) > 5
    assert alive == []


def test_a_running_stack_heals_and_its_data_survives_a_restart(run: Run) -> None:
    folder = run.folder / "var"
    run.start("run", "--folder", str(folder)).read_until("Ctrl-C ends it")
    run.child("worker", "events").kill()
    run.read_until("events ended with -9")
    send(run, scenario.events()[:1])
    wait_for_state(run)
    assert run.signal(signal.SIGINT) == 0, run.output
    assert run.left_behind() == []

    run.start("run", "--folder", str(folder)).read_until("Ctrl-C ends it")
    assert run.correio("state", "link", "12345678", scenario.LINK)["status"] == "CREATED"
    assert run.signal(signal.SIGTERM) == 0, run.output
    assert run.left_behind() == []


def send(run: Run, batch: list[dict[str, object]]) -> None:
    body, headers = scenario.signed(batch, prepare(run.folder / "var").source_secret)
    url = f"http://127.0.0.1:{run.port}/v1/webhooks/klavi"
    request = urllib.request.Request(url, data=body, headers=headers)
    with urllib.request.urlopen(request, timeout=10) as response:
        assert response.status == 200


def wait_for_state(run: Run) -> None:
    """Ask until the worker, which has just been started again, has applied the event."""
    for _ in range(60):
        try:
            run.correio("state", "link", "12345678", scenario.LINK)
        except subprocess.CalledProcessError:
            continue
        return
    pytest.fail("the event was never applied")


def test_secrets_of_a_stack_are_readable_by_their_owner_only(tmp_path: Path) -> None:
    settings = prepare(tmp_path / "var")
    settings.write_env("amqp://user:password@127.0.0.1/")
    private = [p for p in settings.folder.rglob("*") if p.is_file()]
    assert {p.name for p in private} == {"correio.toml", "env", "source-klavi"}
    assert all(p.stat().st_mode & 0o077 == 0 for p in private)


def test_a_configuration_is_written_once_and_then_left_alone(tmp_path: Path) -> None:
    settings = prepare(tmp_path / "var")
    settings.config.write_text("# mine\n")
    again = prepare(tmp_path / "var")
    assert again.config.read_text() == "# mine\n"
    assert again.source_secret == settings.source_secret

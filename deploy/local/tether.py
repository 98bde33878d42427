"""Child processes that end when this one does, however it ends.

A process that stops in good order ends its children itself. One that is killed cannot; on Linux
the kernel then signals them for it (``PR_SET_PDEATHSIG``). Elsewhere they would be left behind.

Run as a script, this module is the launcher: it binds itself to its parent and then becomes the
command.
"""

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

PR_SET_PDEATHSIG = 1
EXIT_ORPHANED = 3

# The kernel watches the thread that forked, not the process: children are forked by one thread
# that lives as long as the interpreter, whichever thread or event loop asks for them.
_spawner = ThreadPoolExecutor(max_workers=1, thread_name_prefix="tether")


def bound(
    command: Sequence[str | Path], *, when_orphaned: signal.Signals = signal.SIGTERM
) -> list[str]:
    """The command line that runs `command` bound to the thread that forks it."""
    launcher = [sys.executable, "-IS", __file__, str(when_orphaned.value), str(os.getpid())]
    return [*launcher, *map(str, command)]


def spawn(
    command: Sequence[str | Path],
    *,
    env: Mapping[str, str],
    output: Path,
    when_orphaned: signal.Signals = signal.SIGTERM,
    cwd: Path | None = None,
) -> subprocess.Popen[bytes]:
    """Start `command` in a session of its own, so that Ctrl-C on the terminal passes it by.

    Args:
        command: the program and its arguments.
        env: its whole environment.
        output: file that its standard output and error are appended to.
        when_orphaned: the signal it gets when this process dies first.
        cwd: its working folder.
    """

    def start() -> subprocess.Popen[bytes]:
        with output.open("ab") as sink:
            return subprocess.Popen(
                bound(command, when_orphaned=when_orphaned),
                env=dict(env),
                cwd=cwd,
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    return _spawner.submit(start).result()


def end(process: subprocess.Popen[bytes], *, grace: float) -> bool:
    """Send SIGTERM, and SIGKILL to the whole session after `grace` seconds.

    Returns whether it ended by itself.
    """
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    try:
        process.wait(grace)
    except subprocess.TimeoutExpired:
        kill(process)
        return False
    return True


def kill(process: subprocess.Popen[bytes]) -> None:
    """SIGKILL the process and whatever it started in its session, and reap it."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _become(number: int, parent: int, command: list[str]) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, number)
        if os.getppid() != parent:  # it died before the line above
            sys.exit(EXIT_ORPHANED)
    os.execvp(command[0], command)  # noqa: S606 - becoming the command is the purpose


if __name__ == "__main__":
    _become(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])

"""What a process says when it cannot begin."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

SETTINGS = {
    "receiver": "CORREIO_RECEIVER__PORT",
    "console": "CORREIO_CONSOLE__PORT",
    "worker events": "CORREIO_OPS__PORT",
}


@pytest.mark.parametrize("role", SETTINGS)
def test_a_port_that_is_taken_is_told_in_one_line(tmp_path: Path, role: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        ended = subprocess.run(
            [sys.executable, "-m", *role.split()],
            env={
                **os.environ,
                "CORREIO_STORE__URL": f"sqlite:///{tmp_path}/store.db",
                "CORREIO_RECEIVER__SPOOL": str(tmp_path / "spool"),
                SETTINGS[role]: port,
            },
            capture_output=True,
            text=True,
            check=False,
            timeout=30,
        )
    assert ended.returncode == 1
    assert "Traceback" not in ended.stderr
    said = ended.stderr.splitlines()[-1]
    assert said.startswith(f"correio {role}: ")
    assert port in said

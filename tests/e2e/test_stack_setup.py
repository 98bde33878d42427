"""What a user meets before there is an environment: the scripts' answers, the list of targets."""

import os
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A folder that is the whole PATH, with no Python on it, only what a script needs."""
    for name in ("sh", "dirname", "id", "rm"):
        real = next(p for p in (Path("/usr/bin", name), Path("/bin", name)) if p.exists())
        (tmp_path / name).symlink_to(real)
    return tmp_path


def program(folder: Path, name: str, script: str) -> None:
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)


def call(path: Path, *command: str) -> subprocess.CompletedProcess[str]:
    env = {"PATH": str(path), "CORREIO_NO_INSTALL": "1"}
    return subprocess.run(
        command, cwd=ROOT, env=env, capture_output=True, text=True, check=False, timeout=60
    )


def test_a_python_that_is_too_old_is_not_found_and_said(path: Path) -> None:
    program(path, "python3", 'test "$1" = --version && echo Python 3.9.2; exit 1')
    assert call(path, "deploy/find-python.sh").stdout == ""
    done = call(path, "deploy/make-venv.sh", str(path / "venv"), "")
    assert done.returncode == 1
    assert "needs Python 3.11" in done.stderr
    assert "Python 3.9.2" in done.stderr


def test_a_later_name_is_tried_when_the_first_is_too_old(path: Path) -> None:
    program(path, "python3", "exit 1")
    program(path, "python3.12", "exit 0")
    assert call(path, "deploy/find-python.sh").stdout.strip() == str(path / "python3.12")


def test_a_python_without_venv_is_said_with_the_remedy(path: Path) -> None:
    program(path, "python3.11", "case $2 in *ensurepip*) exit 1 ;; *) echo 3.11 ;; esac")
    done = call(path, "deploy/make-venv.sh", str(path / "venv"), str(path / "python3.11"))
    assert done.returncode == 1
    assert "apt-get install python3.11-venv" in done.stderr


def test_help_lists_every_target() -> None:
    text = (ROOT / "Makefile").read_text()
    phony = re.search(r"^\.PHONY: (.*)$", text, re.MULTILINE)
    assert phony is not None
    env = {k: v for k, v in os.environ.items() if not k.startswith("MAKE")}
    done = subprocess.run(
        ["make"], cwd=ROOT, env=env, capture_output=True, text=True, check=True, timeout=60
    )
    assert [line.split()[0] for line in done.stdout.splitlines()] == phony[1].split()

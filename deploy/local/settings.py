"""The folder of a local stack: its configuration, its secrets and its data.

The configuration file is written once and then belongs to whoever runs the stack. What changes
from one start to the next, such as ports, is laid over it by environment variables.
"""

import base64
import os
import secrets
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path

from msgspec import Struct

CONFIG_NAME = "correio.toml"
ENV_NAME = "env"
SOURCE = "klavi"
PARTNER_APP_ID = "12345678"
BROKER_VARIABLE = "CORREIO_BROKER__URL"
METRICS_VARIABLE = "CORREIO_BROKER__METRICS_URL"
RECEIVER_PORT_VARIABLE = "CORREIO_RECEIVER__PORT"

_BASE = """\
# Made by the local stack; yours to edit. Every field: deploy/config.example.toml.
# The broker's URL is not here: it comes from the environment, see the file "env" beside this one.

[store]
url = "sqlite:///{folder}/correio.db"

[receiver]
spool = "{folder}/spool"

[[source]]
name = "{source}"
secrets_file = "{folder}/secrets/source-{source}"
partner_app_ids = ["{partner_app_id}"]
"""

_ENDPOINT_HINT = """
# Who is told of changes; one table for each:
# [[endpoint]]
# id = "crm"
# url = "https://crm.example.com/hooks"
# secrets = ["whsec_…"]
# types = ["consent.*", "product_request.completed"]
"""

_ENDPOINT = """
[[endpoint]]
id = "{id}"
url = "{url}"
secrets_file = "{folder}/secrets/endpoint-{id}"
allow_private_network = true
"""


class EndpointEntry(Struct, frozen=True):
    """An endpoint of the local stack itself, on this machine."""

    id: str
    url: str


class Settings(Struct, frozen=True):
    """Where a local stack keeps everything, and the secret its source signs with."""

    folder: Path
    source_secret: str

    @property
    def config(self) -> Path:
        """The configuration file."""
        return self.folder / CONFIG_NAME

    @property
    def logs(self) -> Path:
        """The folder of the processes' logs."""
        return self.folder / "log"

    def endpoint_secret(self, endpoint_id: str) -> str:
        """The secret that callbacks for this endpoint are signed with."""
        return _kept(self.folder / "secrets" / f"endpoint-{endpoint_id}", "whsec_" + _random())

    def environment(self, broker_url: str, metrics_url: str = "") -> dict[str, str]:
        """The environment of every process of the stack."""
        return {**os.environ, **self._own(broker_url, metrics_url)}

    def _own(self, broker_url: str, metrics_url: str) -> dict[str, str]:
        own = {"CORREIO_CONFIG": str(self.config), BROKER_VARIABLE: broker_url}
        return own | ({METRICS_VARIABLE: metrics_url} if metrics_url else {})

    def write_env(self, broker_url: str, metrics_url: str = "") -> Path:
        """Write what a shell must read before ``correio`` can reach this stack."""
        path = self.folder / ENV_NAME
        binaries = Path(sys.executable).parent
        own = self._own(broker_url, metrics_url)
        lines = {name: shlex.quote(value) for name, value in own.items()}
        lines["PATH"] = f"{shlex.quote(str(binaries))}:$PATH"
        _write_private(path, "".join(f"export {k}={v}\n" for k, v in lines.items()))
        return path


def prepare(
    folder: Path,
    *,
    endpoints: tuple[EndpointEntry, ...] = (),
    overrides: Mapping[str, str] | None = None,
) -> Settings:
    """Make the folder of a stack, or use the one that is there.

    Args:
        folder: where everything goes; a configuration already in it is left as it is.
        endpoints: endpoints to write into a new configuration.
        overrides: TOML text of further sections for a new configuration, by section name.
    """
    folder = folder.resolve()
    for part in (folder, folder / "secrets", folder / "log"):
        part.mkdir(parents=True, exist_ok=True, mode=0o700)
    secret = _kept(folder / "secrets" / f"source-{SOURCE}", secrets.token_hex(32))
    settings = Settings(folder=folder, source_secret=secret)
    for endpoint in endpoints:
        settings.endpoint_secret(endpoint.id)
    if not settings.config.exists():
        _write_private(settings.config, _toml(folder, endpoints, overrides or {}))
    return settings


def _toml(folder: Path, endpoints: tuple[EndpointEntry, ...], overrides: Mapping[str, str]) -> str:
    text = _BASE.format(folder=folder, source=SOURCE, partner_app_id=PARTNER_APP_ID)
    for name, body in overrides.items():
        text += f"\n[{name}]\n{body}"
    for endpoint in endpoints:
        text += _ENDPOINT.format(id=endpoint.id, url=endpoint.url, folder=folder)
    return text if endpoints else text + _ENDPOINT_HINT


def _random() -> str:
    return base64.b64encode(secrets.token_bytes(32)).decode()


def _kept(path: Path, fresh: str) -> str:
    """The secret kept in a file, `fresh` when there is none yet."""
    if not path.exists():
        _write_private(path, fresh + "\n")
    return path.read_text().strip()


def _write_private(path: Path, text: str) -> None:
    """Write a file that only its owner reads, never open to others even for a moment."""
    path.unlink(missing_ok=True)
    path.touch(mode=0o600)
    path.write_text(text)

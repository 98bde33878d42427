"""The stack for real work: up until Ctrl-C, its data in one folder that survives a restart."""

import asyncio
from pathlib import Path

from deploy.local.provide import find_broker
from deploy.local.settings import SOURCE, Settings, prepare
from deploy.local.stack import ROLES, ROOT, Stack


async def run(folder: Path, *, named: str | None) -> int:
    """Bring the stack up in `folder`, say how to use it, and keep it up until cancelled."""
    settings = prepare(folder)
    broker = await asyncio.to_thread(
        find_broker, settings.folder / "rabbitmq", named=named, metrics=True
    )
    async with Stack(settings, broker=broker, roles=tuple(ROLES)) as stack:
        print(_welcome(settings, stack), flush=True)
        await stack.watch()
    return 0


def _welcome(settings: Settings, stack: Stack) -> str:
    port = stack.env.get("CORREIO_RECEIVER__PORT", "8080")
    page = stack.env.get("CORREIO_CONSOLE__PORT", "8090")
    ops = "\n".join(
        f"  {child.name:<10} http://127.0.0.1:{child.ops_port}/readyz  (and /livez, /metrics)"
        for child in stack.children
    )
    return f"""
Correio is up. Webhooks go to http://127.0.0.1:{port}/v1/webhooks/{SOURCE}
The console is at http://127.0.0.1:{page}/
{ops}
  broker     {stack.broker.origin}

Everything is in {settings.folder}
  {settings.config.name} is yours to edit: add an [[endpoint]], then start again
  secrets/source-{SOURCE} is the secret that the source signs with
  log/ holds what each process says

From another terminal:
  . {settings.folder}/env
  correio send {ROOT}/tests/data/events/02_consent_authorised.json
  correio status

Ctrl-C ends it; the data stays."""

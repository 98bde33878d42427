"""The README's pictures: ``make screenshots`` takes them of real processes with invented events."""

import asyncio
import io
import os
import sys
import tempfile
from pathlib import Path
from typing import Final

import orjson
from playwright.async_api import Page, expect
from rich.console import Console
from rich.text import Text

from deploy.local.provide import private_node
from deploy.local.rabbitmq import free_port
from tests.support import books
from tests.support import events as ev
from tests.support.chromium import chromium
from tests.support.cli import correio
from tests.support.deliveries import until, until_async
from tests.support.http import ask, request
from tests.support.world import CALLBACKS, Listener, World, world

FOLDER: Final = Path(__file__).parents[2] / "deploy" / "images"
WIDTH: Final = 1_200
COLUMNS: Final = "110"
WAITING: Final = 240

_FRAME = """<body style="margin:0;padding:1rem;background:#111827;color:#e5e7eb">
<pre style="font:14px/1.35 'DejaVu Sans Mono',monospace">{code}</pre></body>"""


async def main() -> None:
    """Bring everything up, let something go wrong, and take the pictures."""
    FOLDER.mkdir(exist_ok=True)
    CALLBACKS["schedule"] = [0.3]
    with tempfile.TemporaryDirectory() as folder:
        broker = private_node(Path(folder) / "rabbitmq", metrics=True)
        await asyncio.to_thread(broker.start)
        try:
            async with world(
                Path(folder), broker, f"sqlite:///{folder}/correio.db",
                console={"port": free_port(), "sample_interval": 0.5},
            ) as everything:  # fmt: skip
                await trouble(everything)
                await pages(everything)
                await commands(everything)
        finally:
            await asyncio.to_thread(broker.stop)


async def trouble(everything: World) -> None:
    """Good events, unreadable ones, exhausted deliveries, and a worker that stands still."""
    receiver = Listener(everything.port)
    await everything.source.send(rate=20, seconds=8)
    await everything.settled()
    await ask(receiver, request(orjson.dumps([{"eventName": "consent_paused", "eventId": "q1"}])))
    everything.endpoint.always = 503
    batch = [ev.event(name, at=number) for number, name in enumerate(ev.NAMES)]
    await ask(receiver, request(ev.dump(batch)))
    await everything.applied()
    waiting = "SELECT count(*) FROM deliveries WHERE state IN ('pending', 'retrying')"
    # The breaker opens on the way and lets one through every two seconds.
    await until(lambda: books.fetch(everything.store, waiting) == [(0,)], limit=120)
    everything.endpoint.always = 200
    await asyncio.to_thread(everything.parts["events"].stop)
    await everything.source.send(rate=20, seconds=6)  # WAITING events


async def pages(everything: World) -> None:
    """The console's pages."""
    for scheme in ("light", "dark"):
        async with chromium(scheme, viewport={"width": WIDTH, "height": 900}) as page:
            await page.goto(everything.page)
            await expect(page.get_by_text("No events worker runs")).to_be_visible(timeout=30_000)
            queues = page.get_by_role("region", name="Queues")
            row = queues.get_by_role("row").filter(has_text="correio.events")
            await expect(row).to_contain_text(str(WAITING), timeout=30_000)
            await picture(page, f"console-{scheme}")
            if scheme == "light":
                await page.goto(f"{everything.page}#search/{ev.CONSENT}")
                await expect(page.get_by_role("heading", name="Time line")).to_be_visible()
                await picture(page, "console-trace")


async def commands(everything: World) -> None:
    """The command line, as a terminal shows it."""

    async def aged() -> bool:
        """Whether the console has written down how old the queue is."""
        _, out, _ = await correio(everything.config, "status", "--json")
        return not orjson.loads(out)["unavailable"]

    await until_async(aged, limit=60)
    for name in ("status", "doctor"):
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "console.cli", name,
            stdout=asyncio.subprocess.PIPE,
            env={
                **os.environ, "CORREIO_CONFIG": str(everything.config), "COLUMNS": COLUMNS,
                "FORCE_COLOR": "1",
            },
        )  # fmt: skip
        printed, _ = await process.communicate()
        screen = Console(record=True, width=int(COLUMNS), file=io.StringIO())
        screen.print(Text.from_ansi(f"$ correio {name}\n{printed.decode()}"))
        html = screen.export_html(inline_styles=True, code_format=_FRAME)
        async with chromium("dark", viewport={"width": 1_000, "height": 100}) as page:
            await page.set_content(html)
            await picture(page, f"correio-{name}")


async def picture(page: Page, name: str) -> None:
    """Write one picture."""
    await page.screenshot(path=FOLDER / f"{name}.png", full_page=True)


if __name__ == "__main__":
    asyncio.run(main())

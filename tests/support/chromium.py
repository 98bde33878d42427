"""A headless browser: the distribution's Chromium."""

import contextlib
import shutil
from collections.abc import AsyncIterator
from typing import Any, Literal

from playwright.async_api import Page, async_playwright

SWITCHES = [
    "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip


@contextlib.asynccontextmanager
async def chromium(scheme: Literal["light", "dark"], **more: Any) -> AsyncIterator[Page]:
    """An empty page in a browser of its own; `more` goes to its context."""
    path = shutil.which("chromium")
    assert path, "no Chromium: apt-get install chromium"
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=path, args=SWITCHES, chromium_sandbox=False
        )
        context = await browser.new_context(color_scheme=scheme, **more)
        yield await context.new_page()
        await browser.close()

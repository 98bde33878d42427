"""A console page that has a day of figures to show, and one that stays open for a day."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from playwright.async_api import CDPSession, Page, expect

from console.service import ConsoleService
from shared.broker import topology
from shared.clock import SystemClock
from shared.config import BrokerConfig, Config, ConsoleConfig, Secret, StoreConfig
from shared.store.migrate import migrate
from shared.store.open import open_store
from shared.store.queries import Queries
from tests.support.chromium import chromium
from tests.support.deliveries import until

pytestmark = [pytest.mark.browser, pytest.mark.timeout(1800)]

DAY = 24 * 3_600_000
KEPT_EVERY = 10_000
"""Milliseconds between two points of the history in the store."""

SAMPLE = 5_000
"""Milliseconds between two looks of the console, as configured by default."""

LIMIT = 300_000
"""Bytes that the page may transfer."""

FAKES = """
const real = window.setInterval;
window.setInterval = (work, time) => {
  if (time !== 2000) return real(work, time);
  window.refresh = work;
  return 0;
};
AbortSignal.timeout = () => new AbortController().signal;  // else each waits for its 20 s
"""
"""Lets a test say when the page looks again. What it then does is its own."""

REFRESH = """async ([from, count, step]) => {
  window.answered ??= window.fetch;
  const shown = await (await window.answered("/api/overview")).json();
  let pending = 0;
  window.fetch = async (path) => {
    if (path !== "/api/overview") return window.answered(path);
    pending += 1;
    const wave = (n) => Math.round(500 + 499 * Math.sin(from + n));
    const queues = shown.status.queues.map((one, i) => (
      { ...one, ready: wave(i), oldestAgeSeconds: wave(i) / 10 }));
    const at = shown.point.at + 1000 + (from + taken) * step;
    const point = { ...shown.point, at, spool: wave(7), events: from + taken,
      queues: Object.fromEntries(queues.map((one) => [one.name, one.ready])),
      oldest: Object.fromEntries(queues.map((one) => [one.name, one.oldestAgeSeconds])) };
    const stuck = taken % 2 ? shown.stuck : [];
    const status = { ...shown.status, queues };
    pending -= 1;
    return new Response(JSON.stringify({ ...shown, point, stuck, status }));
  };
  let taken = 0;
  for (; taken < count; taken += 1) {
    window.refresh();
    do await new Promise((go) => {
      const channel = new MessageChannel();
      channel.port1.onmessage = go;
      channel.port2.postMessage(0);
    }); while (pending);
    if (taken % 50 === 0) await new Promise(requestAnimationFrame);
  }
  window.fetch = window.answered;
}"""


def point(at: int, number: int) -> dict[str, Any]:
    """A point of the charts, as the sampler writes it, no two alike."""
    return {
        "at": at,
        "queues": {name: number * (7919 + i) % 10_007 for i, name in enumerate(topology.QUEUES)},
        "oldest": {name: number * (31 + i) % 1_000 / 10 for i, name in enumerate(topology.QUEUES)},
        "spool": number * 31 % 97,
        "events": number * 100,
        "deliveries": {"delivered": number * 90, "exhausted": number % 10},
    }


@pytest.fixture
async def base(tmp_path: Path) -> AsyncIterator[str]:
    """Address of a console whose store holds the figures of a whole day."""
    url = Secret(f"sqlite:///{tmp_path}/store.db")
    await migrate(url)
    clock = SystemClock()
    now = clock.now()
    store = open_store(StoreConfig(url=url))
    await store.start()
    await store.change([
        ("INSERT INTO samples (at, point) VALUES (?, ?)", (at, orjson.dumps(point(at, number))))
        for number, at in enumerate(range(now - DAY + KEPT_EVERY, now, KEPT_EVERY))
    ])  # fmt: skip
    config = Config(
        store=StoreConfig(url=url),
        broker=BrokerConfig(url=Secret("amqp://127.0.0.1:1/")),
        console=ConsoleConfig(port=0),
    )
    service = ConsoleService(config, store=store, clock=clock)
    stop = asyncio.Event()
    running = asyncio.create_task(service.run(stop))
    await until(lambda: len(service.sampler.points) > DAY // KEPT_EVERY - 10)
    assert len(await Queries(store).samples(since=0)) > DAY // KEPT_EVERY - 10
    yield f"http://127.0.0.1:{service.port}"
    stop.set()
    await running


@contextlib.asynccontextmanager
async def opened(base: str, *, fakes: str = "") -> AsyncIterator[Page]:
    async with chromium("light") as page:
        await page.add_init_script(fakes)
        await page.goto(base)
        await expect(page.get_by_role("region", name="Queues")).to_be_visible()
        yield page


async def test_a_day_of_figures_is_small(base: str) -> None:
    async with opened(base) as page:
        sent = await page.evaluate(
            "performance.getEntries().reduce((sum, one) => sum + (one.transferSize || 0), 0)"
        )
        history = await page.evaluate(
            "performance.getEntriesByName(`${location.origin}/api/history`)[0].transferSize"
        )
    assert 10_000 < history < sent < LIMIT


async def measured(cdp: CDPSession) -> dict[str, float]:
    """What the page holds once everything that nobody holds is gone."""
    for _ in range(3):
        await cdp.send("HeapProfiler.collectGarbage")
    found = await cdp.send("Performance.getMetrics")
    return {one["name"]: one["value"] for one in found["metrics"]}


def assert_no_growth(before: dict[str, float], after: dict[str, float]) -> None:
    print([(name, before[name], after[name]) for name in ("JSHeapUsedSize", "Nodes")])  # noqa: T201 - shown when it fails
    assert after["Nodes"] <= before["Nodes"] + 200
    assert after["JSEventListeners"] <= before["JSEventListeners"] + 20
    assert after["JSHeapUsedSize"] <= 1.1 * before["JSHeapUsedSize"] + 500_000


@pytest.mark.deep
async def test_a_page_left_open_for_a_day_does_not_grow(base: str) -> None:
    """As many looks as a day has new figures for, through the page's own code."""
    looks, warm = DAY // SAMPLE, 2_500  # by then the charts hold as many points as they ever do
    async with opened(base, fakes=FAKES) as page:
        cdp = await page.context.new_cdp_session(page)
        await cdp.send("Performance.enable")
        await page.evaluate(REFRESH, [0, warm, SAMPLE])
        before = await measured(cdp)
        for start in range(warm, looks, 1_000):
            await page.evaluate(REFRESH, [start, min(1_000, looks - start), SAMPLE])
        after = await measured(cdp)
    assert_no_growth(before, after)


async def test_going_to_and_fro_leaves_nothing_behind(base: str) -> None:
    async with opened(base, fakes=FAKES) as page:
        cdp = await page.context.new_cdp_session(page)
        await cdp.send("Performance.enable")

        async def go(times: int) -> None:
            for _ in range(times):
                await page.evaluate("location.hash = 'search'")
                await expect(page.get_by_role("button", name="Find")).to_be_visible()
                await page.evaluate("location.hash = 'overview'")
                await expect(page.get_by_role("region", name="Queues")).to_be_visible()

        await go(5)
        before = await measured(cdp)
        await go(30)
        after = await measured(cdp)
    assert_no_growth(before, after)

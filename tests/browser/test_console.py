"""The console in a real browser, before real processes, broker and store."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Literal

import orjson
import pytest
from axe_playwright_python.base import AXE_FILE_PATH
from playwright.async_api import Page, Request, expect

from deploy.local.provide import PrivateBroker
from deploy.local.rabbitmq import free_port
from tests.support import events as ev
from tests.support.chromium import chromium
from tests.support.cli import correio
from tests.support.deliveries import until_async
from tests.support.http import ask, request
from tests.support.world import CALLBACKS, Listener, World, world

TOKEN = "a-token-of-more-than-twenty-characters"
READER = "another-token-of-more-than-twenty-characters"
TRUSTED = "a-third-token-of-more-than-twenty-characters"
CPF = "25872252137"

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]


class Browsed:
    """A page, and everything that it complained about or asked for."""

    def __init__(self, page: Page, base: str) -> None:
        self.page = page
        self.base = base
        self.errors: list[str] = []
        self.foreign: list[str] = []
        self.bytes = 0
        page.on("console", lambda said: said.type == "error" and self.errors.append(said.text))
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("request", self._asked)

    def _asked(self, made: Request) -> None:
        if not made.url.startswith((self.base, "data:")):
            self.foreign.append(made.url)

    async def view(self, name: str) -> None:
        await self.page.get_by_role("link", name=name, exact=True).click()
        await expect(self.page.get_by_role("heading", name=name).first).to_be_visible()

    async def axe(self) -> None:
        """No serious fault of accessibility. Run from outside, so that no policy forbids it."""
        found = await self.page.evaluate(
            f"{AXE_FILE_PATH.read_text()}\n;axe.run().then((r) => r.violations)"
        )
        serious = [one for one in found if one["impact"] in ("serious", "critical")]
        assert not serious, [(one["id"], [n["html"] for n in one["nodes"]]) for one in serious]


@pytest.fixture
async def everything(
    tmp_path: Path, private_broker: PrivateBroker, empty_store_url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[World]:  # fmt: skip
    monkeypatch.setitem(CALLBACKS, "schedule", [0.3])
    async with world(
        tmp_path, private_broker, empty_store_url,
        console={"port": free_port(), "sample_interval": 0.5},
        operator=[
            {"name": "ana", "secrets": [TOKEN]},
            {"name": "rui", "secrets": [READER], "read_only": True},
            {"name": "eva", "secrets": [TRUSTED], "read_only": True, "may_unmask": True},
        ],
    ) as made:  # fmt: skip
        yield made


@pytest.fixture
async def browsed(everything: World) -> AsyncIterator[Browsed]:
    """Light before SQLite, dark before PostgreSQL."""
    scheme: Literal["light", "dark"] = "light" if everything.store.startswith("sqlite") else "dark"
    async with chromium(scheme) as page:
        made = Browsed(page, everything.page)
        await page.goto(made.base)
        yield made
    assert made.foreign == []
    assert [one for one in made.errors if "401" not in one and "403" not in one] == []


async def log_in(browsed: Browsed, token: str = TOKEN) -> None:
    await browsed.page.get_by_label("Token").fill(token)
    await browsed.page.get_by_role("button", name="Log in").click()
    await expect(browsed.page.get_by_role("heading", name="What is stuck")).to_be_visible()


def depth(page: Page):
    row = (
        page.get_by_role("region", name="Queues")
        .get_by_role("row")
        .filter(has_text="correio.events")
    )
    return row.get_by_role("cell").nth(1)


async def test_an_operator_sees_depth_rise_and_finds_an_event(
    everything: World, browsed: Browsed
) -> None:
    made = everything
    page = browsed.page
    await browsed.axe()
    await page.get_by_label("Token").fill("x" * 30)
    await page.get_by_role("button", name="Log in").click()
    await expect(page.get_by_role("alert").filter(has_text="no operator")).to_be_visible()
    await log_in(browsed)
    await expect(page.get_by_text("Nothing is stuck.")).to_be_visible()
    await browsed.axe()

    # depth rises while the worker is stopped, and falls when it starts
    await asyncio.to_thread(made.parts["events"].stop)
    batch = [ev.event(name, at=number) for number, name in enumerate(ev.NAMES)]
    assert (await ask(Listener(made.port), request(ev.dump(batch)))).status == 200
    await expect(depth(page)).to_have_text(str(len(batch)), timeout=20_000)
    await expect(page.get_by_text("No events worker runs")).to_be_visible()
    await expect(page.get_by_text("python -m worker events")).to_be_visible()
    await browsed.axe()
    made.parts["events"].start()
    await expect(depth(page)).to_have_text("0", timeout=20_000)
    await expect(page.get_by_text("No events worker runs")).to_be_hidden(timeout=20_000)

    # an event, from receipt to the last attempt
    await made.endpoint.wait_calls(1)
    await page.keyboard.press("/")
    await page.get_by_label("eventId, linkId").fill(ev.CONSENT)
    await page.keyboard.press("Enter")
    line = page.get_by_role("list").filter(has_text="received")
    await expect(line).to_contain_text("consent_authorised")
    await expect(line).to_contain_text("attempt 1 of consent.authorised to crm")
    await browsed.axe()


async def test_an_operator_acts(everything: World, browsed: Browsed) -> None:
    made = everything
    page = browsed.page
    await log_in(browsed)
    # quarantine
    bad = orjson.dumps([{"eventName": "unheard_of", "eventId": "q1"}])
    assert (await ask(Listener(made.port), request(bad))).status == 200
    await expect_open(made, 1)
    await browsed.view("Quarantine")
    await browsed.axe()
    await page.get_by_role("button", name="Body").click()
    await expect(page.get_by_role("dialog")).to_contain_text("unheard_of")
    await page.get_by_role("button", name="Close").click()
    await page.get_by_role("button", name="Replay", exact=True).click()
    await expect(page.get_by_role("dialog")).to_contain_text("1 entries are meant")
    await page.get_by_role("dialog").get_by_role("button", name="Replay").click()
    await expect(page.get_by_role("status")).to_have_text("Replay: 1 entries.")

    # pause, hold, resume
    await browsed.view("Endpoints")
    await browsed.axe()
    await page.get_by_role("button", name="Pause").click()
    await page.get_by_role("dialog").get_by_role("button", name="Pause").click()
    await expect(page.get_by_role("cell", name="paused", exact=True)).to_be_visible()
    await page.get_by_role("button", name="Test").click()
    await expect(page.get_by_role("status")).to_contain_text("answered 200", timeout=20_000)
    await page.get_by_role("button", name="Resume").click()
    await expect(page.get_by_role("cell", name="enabled", exact=True)).to_be_visible()

    # who did what
    await browsed.view("Record")
    await expect(page.get_by_role("cell", name="endpoint.paused")).to_be_visible()
    await expect(page.get_by_role("cell", name="ana@console").first).to_be_visible()
    await browsed.axe()


async def expect_open(made: World, count: int) -> None:
    async def open_now() -> bool:
        _, out, _ = await correio(made.config, "quarantine", "list", "--limit", "200", "--json")
        return len(orjson.loads(out)["entries"]) == count

    await until_async(open_now)


async def test_exhausted_deliveries_are_replayed(everything: World, browsed: Browsed) -> None:
    made = everything
    page = browsed.page
    made.endpoint.answers = [(500, {}, b"no")] * 6
    batch = [ev.event("consent_authorised", at=n) for n in range(1)]
    assert (await ask(Listener(made.port), request(ev.dump(batch)))).status == 200
    await log_in(browsed)
    await expect(page.get_by_text("deliveries to crm are exhausted")).to_be_visible(timeout=30_000)
    await page.get_by_role("link", name="see deliveries").click()
    await browsed.axe()
    made.endpoint.answers = []
    await page.get_by_role("button", name="Replay the exhausted of this filter").click()
    await expect(page.get_by_role("dialog")).to_contain_text("deliveries are meant")
    await page.get_by_role("dialog").get_by_role("button", name="Replay").click()
    await expect(page.locator("#progress")).to_contain_text("delivered", timeout=20_000)
    await expect(page.get_by_text("0 deliveries.")).to_be_visible(timeout=20_000)


async def test_who_may_only_look_cannot_act(everything: World, browsed: Browsed) -> None:
    page = browsed.page
    await log_in(browsed, READER)
    await browsed.view("Endpoints")
    await expect(page.get_by_role("button", name="Pause")).to_be_disabled()
    # the page's own session, without its CSRF token: as another site's form would send it
    status = await page.evaluate(
        "fetch('/api/endpoints/crm/pause', {method: 'POST', body: '{}'}).then((a) => a.status)"
    )
    assert status == 403
    await page.get_by_role("button", name="Log out").click()
    await expect(page.get_by_label("Token")).to_be_visible()
    assert await page.evaluate("fetch('/api/overview').then((a) => a.status)") == 401


async def test_a_body_is_read_by_all_and_in_full_by_who_may(
    everything: World, browsed: Browsed
) -> None:
    page, dialog = browsed.page, browsed.page.get_by_role("dialog")
    bad = orjson.dumps([{"eventName": "unheard_of", "eventId": "q1", "taxId": CPF}])
    assert (await ask(Listener(everything.port), request(bad))).status == 200
    await expect_open(everything, 1)
    unmask = dialog.get_by_role("button", name="Show what is masked")
    for token, may in ((READER, False), (TRUSTED, True)):
        await log_in(browsed, token)
        await browsed.view("Quarantine")
        await expect(page.get_by_role("button", name="Replay", exact=True)).to_be_disabled()
        await page.get_by_role("button", name="Body").press("Enter")
        body = dialog.get_by_role("region", name="Body")
        await expect(body).to_contain_text("***.722.521-**")
        await expect(unmask).to_have_count(int(may))
        await browsed.axe()
        if may:
            await unmask.press("Enter")
            await expect(body).to_contain_text(CPF)
            await expect(body).to_be_focused()
            await expect(unmask).to_be_hidden()
        await page.get_by_role("button", name="Close").press("Enter")
        await expect(dialog).to_be_hidden()
        await browsed.view("Record")
        await expect(page.get_by_role("cell", name="quarantine.unmask")).to_have_count(int(may))
        await page.get_by_role("link", name="Overview").click()  # where the next one begins
        await page.get_by_role("button", name="Log out").click()


async def test_a_list_that_is_cut_says_so(everything: World, browsed: Browsed) -> None:
    page = browsed.page
    bad = [{"eventName": "unheard_of", "eventId": f"q{n}"} for n in range(101)]
    assert (await ask(Listener(everything.port), request(orjson.dumps(bad)))).status == 200
    await expect_open(everything, 101)
    await log_in(browsed)
    await browsed.view("Quarantine")
    said = page.get_by_text("The newest 100 of 101 entries; narrow the filter to see others.")
    await expect(said).to_be_visible()
    await browsed.axe()
    await page.get_by_label("reason").fill("malformed")
    await page.get_by_role("button", name="Show", exact=True).press("Enter")
    await expect(page.get_by_text("0 entries.")).to_be_visible()


async def test_the_page_is_small_and_fits_a_phone(browsed: Browsed) -> None:
    page = browsed.page
    sent = await page.evaluate(
        "performance.getEntries().reduce((sum, one) => sum + (one.transferSize || 0), 0)"
    )
    assert 20_000 < sent < 300_000
    await page.set_viewport_size({"width": 360, "height": 740})
    await log_in(browsed)
    assert await page.evaluate("document.documentElement.scrollWidth") <= 360


async def test_a_page_left_open_does_not_grow(browsed: Browsed) -> None:
    """More points come in than a day has; what the page keeps of them stays bounded."""
    page = browsed.page
    await log_in(browsed)
    kept = await page.evaluate(
        """async () => {
            const { makeHistory } = await import("/parts.js");
            const history = makeHistory();
            for (let at = 1; at <= 50_000; at += 1) history.add({ at });
            const points = history.points;
            return [points.length, points[0].at, points[points.length - 1].at];
        }"""
    )
    assert kept[0] <= 2_000
    assert kept[1] <= 64
    assert kept[2] >= 49_000

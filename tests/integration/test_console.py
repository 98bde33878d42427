"""The console's HTTP side, as a browser and as somebody who should not get in would use it."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Self

import aiohttp
import orjson
import pytest
from prometheus_client import REGISTRY

from console import api
from console.app import FILES
from console.look import status_answer
from console.metrics import show
from console.sampler import Sampler
from console.service import ConsoleService
from shared.broker import topology
from shared.broker.depth import depths
from shared.clock import SystemClock
from shared.config import Config, StoreConfig, load_config
from shared.errors import ConfigError
from shared.store.lists import DeliveryLists
from shared.store.open import open_store
from tests.support import events as ev
from tests.support.deliveries import until
from tests.support.processes import write_config
from worker.events.apply import Applier
from worker.events.arrivals import Arrival

TOKEN = "a-token-of-more-than-twenty-characters"
READER = "another-token-of-more-than-twenty-characters"
TRUSTED = "a-third-token-of-more-than-twenty-characters"
OPERATORS = [
    {"name": "ana", "secrets": [TOKEN]},
    {"name": "rui", "secrets": [READER], "read_only": True},
    {"name": "eva", "secrets": [TRUSTED], "read_only": True, "may_unmask": True},
]
CPF = "39053344705"


class Page:
    """A browser of sorts: keeps cookies and the CSRF token."""

    def __init__(self, http: aiohttp.ClientSession, base: str) -> None:
        self.http = http
        self.base = base
        self.csrf = ""

    async def get(self, path: str, **headers: str) -> tuple[int, Any]:
        async with self.http.get(f"{self.base}/api/{path}", headers=headers) as answer:
            return answer.status, orjson.loads(await answer.read())

    async def post(self, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
        headers = {"X-CSRF-Token": self.csrf, **headers}
        data = orjson.dumps({} if body is None else body)
        async with self.http.post(f"{self.base}/api/{path}", data=data, headers=headers) as answer:
            return answer.status, orjson.loads(await answer.read())

    async def enter(self, token: str = "") -> None:
        if token:
            assert (await self.post("login", {"token": token}))[0] == 200
        status, session = await self.get("session")
        assert status == 200
        self.csrf = session["csrf"]


class Served:
    """A console that runs in the test's own process."""

    def __init__(self, config: Config) -> None:
        self.service = ConsoleService(config, store=open_store(config.store), clock=SystemClock())
        self._stop = asyncio.Event()

    async def __aenter__(self) -> Self:
        self._running = asyncio.create_task(self.service.run(self._stop))
        await until(lambda: self.service.sampler.status is not None)
        await until(lambda: self.service.store_fault is None)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stop.set()
        await self._running

    def page(self) -> Page:
        jar = aiohttp.CookieJar(unsafe=True)
        base = f"http://127.0.0.1:{self.service.port}"
        return Page(aiohttp.ClientSession(cookie_jar=jar), base)


def configured(
    folder: Path, broker: str, store: str, monkeypatch: pytest.MonkeyPatch, **more: Any
) -> Config:
    path = write_config(
        folder,
        broker={"url": broker},
        store={"url": store},
        receiver={"spool": str(folder / "spool")},
        console={"port": 0, "sample_interval": 0.2},
        source=[{"name": "klavi", "secrets": ["a secret"], "partner_app_ids": [ev.APP]}],
        endpoint=[{"id": "crm", "url": "http://127.0.0.1:9/", "secrets": ["whsec_c2VjcmV0"]}],
        **more,
    )
    monkeypatch.setenv("CORREIO_CONFIG", str(path))
    return load_config()


async def fill(config: Config) -> None:
    """The ten events, and one that cannot be understood."""
    store = open_store(StoreConfig(url=config.store.url))
    await store.start()
    bad = {"eventName": "unheard_of", "eventId": "q1", "taxId": CPF}
    made = [*(ev.event(name, at=n) for n, name in enumerate(ev.NAMES)), bad]
    await Applier(store, config, clock=SystemClock()).apply([
        Arrival(orjson.dumps(one), "klavi", "batch", 1_000 + n) for n, one in enumerate(made)
    ])  # fmt: skip
    await store.close()


@pytest.fixture
async def guarded(
    tmp_path: Path, broker_url: str, store_url: str, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Served]:
    await topology.declare(broker_url)
    config = configured(tmp_path, broker_url, store_url, monkeypatch, operator=OPERATORS)
    await fill(config)
    async with Served(config) as served:
        yield served


async def test_the_door(guarded: Served) -> None:
    page = guarded.page()
    async with page.http:
        for path in ("overview", "history", "trace?id=x", "quarantine", "deliveries", "audit",
                     "endpoints"):  # fmt: skip
            assert (await page.get(path))[0] == 401, path
        assert (await page.post("login", {"token": "x" * 30}))[0] == 401
        assert (await page.post("login", b"[".decode()))[0] == 400
        assert (await page.post("login", {"token": TOKEN}, Origin="http://evil.example"))[0] == 403
        await page.enter(TOKEN)
        (cookie,) = page.http.cookie_jar
        assert cookie["httponly"]
        assert cookie["samesite"] == "Strict"
        assert (await page.get("overview"))[0] == 200
        # what changes something wants the token that only our own page knows
        right, page.csrf = page.csrf, "wrong"
        assert (await page.post("endpoints/crm/pause"))[0] == 403
        page.csrf = right
        assert (await page.post("endpoints/crm/pause", Origin="http://evil.example"))[0] == 403
        assert (await page.get("endpoints"))[1]["endpoints"][0]["status"] == "enabled"
        assert (await page.post("logout"))[0] == 200
        assert (await page.get("overview"))[0] == 401
        await page.enter(READER)
        assert (await page.post("endpoints/crm/pause"))[0] == 403
        assert (await page.get("endpoints"))[0] == 200
        for _ in range(10):
            await page.post("login", {"token": "x"})
        assert (await page.post("login", {"token": TOKEN}))[0] == 429


async def test_an_operator_looks_and_acts(guarded: Served) -> None:
    page = guarded.page()
    async with page.http:
        await page.enter(TOKEN)
        assert (await page.get(f"trace?id={ev.CONSENT}"))[1]["deliveries"]
        assert (await page.get("trace?id=nobody"))[0] == 404

        (entry,) = (await page.get("quarantine"))[1]["entries"]
        body = (await page.get(f"quarantine/{entry['id']}"))[1]["body"]
        assert "unheard_of" in body
        assert CPF not in body
        meant = {"ids": [entry["id"]]}
        dry_run = (await page.post("quarantine/replay", meant))[1]
        assert dry_run == {"count": 1, "dryRun": True, **meant}
        done = await page.post("quarantine/replay", {**meant, "dryRun": False})
        assert done == (200, {"count": 1, "dryRun": False})
        assert (await page.post("quarantine/discard", {"reason": entry["reason"]}))[1]["dryRun"]
        assert (await page.post("quarantine/replay", {}))[0] == 400
        assert (await page.post("quarantine/replay", {"ids": "x"}))[0] == 400

        listed = (await page.get("deliveries?state=pending"))[1]
        assert listed["count"] == len(listed["deliveries"]) > 0
        assert (await page.get("deliveries?state=nonsense"))[0] == 400
        one = listed["deliveries"][0]["id"]
        assert (await page.get(f"deliveries/{one}"))[1]["state"] == "pending"
        assert (await page.get("deliveries/nobody"))[0] == 404
        assert (await page.post("deliveries/cancel", {}))[0] == 400
        held = {"endpoint": "crm", "state": "held"}  # a state in the filter is heeded
        assert (await page.post("deliveries/cancel", held))[1]["count"] == 0
        assert (await page.post("deliveries/cancel", {"endpoint": "crm"}))[1]["count"] > 0
        assert (await page.post("deliveries/cancel", {**held, "state": "delivered"}))[0] == 400
        done = await page.post("deliveries/cancel", {"ids": [one], "dryRun": False})
        assert done == (200, {"count": 1, "dryRun": False})
        assert (await page.get(f"deliveries/{one}"))[1]["state"] == "cancelled"
        assert (await page.post("deliveries/replay", {"endpoint": "crm"}))[1]["count"] == 0

        assert (await page.post("endpoints/crm/pause", {"reason": "night"}))[0] == 200
        (crm,) = (await page.get("endpoints"))[1]["endpoints"]
        assert (crm["status"], crm["reason"]) == ("paused", "night")
        await until(lambda: any(f.key == "held.crm" for f in guarded.service.sampler.stuck))
        assert (await page.post("endpoints/crm/resume"))[0] == 200
        assert (await page.post("endpoints/nobody/resume"))[0] == 404
        assert (await page.post("endpoints/nobody/test"))[0] == 404
        notes = (await page.get("audit"))[1]["notes"]
        assert [one["action"] for one in notes] == [
            "endpoint.enabled", "endpoint.paused", "deliveries.cancel", "quarantine.replay",
        ]  # fmt: skip
        assert {one["actor"] for one in notes} == {"ana@console"}

        status, seen = await page.get("overview")
        assert status == 200
        assert sum(seen["status"]["events"].values()) == 11
        found = {one["name"]: one["ready"] for one in seen["status"]["queues"]}
        real = {one.name: one.ready for one in await depths(guarded.service.config.broker.url)}
        assert found.keys() == real.keys()
        assert {"critical"} == {one["severity"] for one in seen["stuck"] if "worker" in one["what"]}
        assert len((await page.get("history"))[1]["points"]) >= 1


async def test_a_dry_run_counts_and_loads_nothing(
    guarded: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(DeliveryLists, "delivery_ids")
    page = guarded.page()
    async with page.http:
        await page.enter(TOKEN)
        listed = (await page.get("deliveries?endpoint=crm&state=pending"))[1]["count"]
        wanted = {"endpoint": "crm"}
        said = await page.post("deliveries/cancel", wanted)
        assert said == (200, {"count": listed, "dryRun": True})
        said = await page.post("deliveries/replay", {**wanted, "includeDelivered": True})
        assert said == (200, {"count": 0, "dryRun": True, "replay": None})


async def test_what_is_masked_is_shown_in_full_to_few_and_each_look_is_recorded(
    guarded: Served,
) -> None:
    for token in (TOKEN, READER):
        page = guarded.page()
        async with page.http:
            await page.enter(token)
            (entry,) = (await page.get("quarantine"))[1]["entries"]
            status, said = await page.get(f"quarantine/{entry['id']}?unmask=1")
            assert status == 403
            assert CPF not in str(said)
            assert (await page.get("audit"))[1]["notes"] == []
    page = guarded.page()
    async with page.http:
        await page.enter(TRUSTED)
        assert CPF not in str(await page.get(f"quarantine/{entry['id']}"))
        assert (await page.get("audit"))[1]["notes"] == []
        status, shown = await page.get(f"quarantine/{entry['id']}?unmask=1")
        assert status == 200
        assert CPF in shown["body"]
        (note,) = (await page.get("audit"))[1]["notes"]
    assert (note["actor"], note["action"]) == ("eva@console", "quarantine.unmask")
    assert entry["id"] in str(note)


async def test_a_page_is_told_whom_it_may_show_what(guarded: Served) -> None:
    for token, may in ((TOKEN, False), (READER, False), (TRUSTED, True)):
        page = guarded.page()
        async with page.http:
            await page.enter(token)
            assert (await page.get("session"))[1]["mayUnmask"] is may


async def test_a_list_that_is_cut_says_how_much_there_is(
    guarded: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = guarded.service.config
    store = open_store(StoreConfig(url=config.store.url))
    await store.start()
    made = [orjson.dumps({"eventName": "unheard_of", "eventId": f"q{n}"}) for n in range(2, 5)]
    await Applier(store, config, clock=SystemClock()).apply([
        Arrival(one, "klavi", "batch", 2_000) for one in made
    ])  # fmt: skip
    await store.close()
    monkeypatch.setattr(api, "PAGE", 2)
    page = guarded.page()
    async with page.http:
        await page.enter(TOKEN)
        whole = (await page.get("quarantine"))[1]
        assert (len(whole["entries"]), whole["count"], whole["more"]) == (2, 4, False)
        assert (await page.get("quarantine?reason=unheard"))[1]["count"] == 0
        assert (await page.get("deliveries"))[1]["count"] > 2
        for _ in range(3):
            await page.post("endpoints/crm/pause")
        monkeypatch.setattr(api, "COUNTED", 3)
        cut = (await page.get("quarantine"))[1]
        assert (len(cut["entries"]), cut["count"], cut["more"]) == (2, 3, True)
        notes = (await page.get("audit"))[1]
        assert (len(notes["notes"]), notes["more"]) == (2, True)
        monkeypatch.setattr(api, "PAGE", 3)
        assert (await page.get("audit"))[1]["more"] is False


async def test_the_page_brings_everything_with_it(guarded: Served) -> None:
    page = guarded.page()
    sent = 0
    async with page.http:
        for path in FILES:
            async with page.http.get(page.base + path) as answer:
                assert answer.status == 200
                sent += answer.content_length or 0
                policy = answer.headers["Content-Security-Policy"]
                assert "default-src 'none'" in policy
                assert "unsafe" not in policy
                tag = answer.headers["ETag"]
            async with page.http.get(page.base + path, headers={"If-None-Match": tag}) as answer:
                assert answer.status == 304
        async with page.http.get(page.base + "/nothing") as answer:
            assert answer.status == 404
    assert 20_000 < sent < 100_000


async def test_without_operators_only_this_machine_by_its_own_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = f"sqlite:///{tmp_path}/missing.db"
    config = configured(tmp_path, "amqp://127.0.0.1:1/", store, monkeypatch)
    service = ConsoleService(config, store=open_store(config.store), clock=SystemClock())
    stop = asyncio.Event()
    running = asyncio.create_task(service.run(stop))
    await until(lambda: service.sampler.status is not None)
    page = Page(
        aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True)),
        f"http://127.0.0.1:{service.port}",
    )
    async with page.http:
        assert (await page.get("overview"))[0] == 401
        await page.enter()
        status, _ = await page.get("overview", Host="rebound.example")
        assert status == 403
        # neither broker nor store is there: it says so, and what needs them is refused clearly
        _, seen = await page.get("overview")
        assert {one["key"] for one in seen["stuck"]} == {"broker", "store"}
        assert seen["status"]["events"] is None
        status, said = await page.get("deliveries")
        assert (status, said["status"]) == (503, 503)
    stop.set()
    await running


def test_a_short_token_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="operator ana: secrets must hold tokens of at least 20"):
        configured(
            tmp_path, "amqp://x", "sqlite:///x", monkeypatch,
            operator=[{"name": "ana", "secrets": ["short"]}],
        )  # fmt: skip


async def test_counts_of_the_store_are_figures_too_while_it_can_be_read(guarded: Served) -> None:
    def figure(name: str, **labels: str) -> float | None:
        return REGISTRY.get_sample_value(name, labels)

    sampler = guarded.service.sampler
    await until(lambda: figure("correio_quarantine_open", reason="unknown_event") == 1)
    assert (figure("correio_deliveries", endpoint="crm", state="pending") or 0) > 0
    assert figure("correio_deliveries", endpoint="crm", state="exhausted") == 0
    assert sampler.status is not None
    show({**sampler.status, "deliveries": None, "quarantine": None}, sampler._endpoints)
    assert figure("correio_quarantine_open", reason="unknown_event") is None
    assert figure("correio_deliveries", endpoint="crm", state="exhausted") is None


async def test_charts_begin_before_the_console_was_started(guarded: Served) -> None:
    """What one console wrote down, the next one shows, and the command line knows its ages."""
    service = guarded.service
    async with asyncio.timeout(30), service.context("test").queries() as queries:
        while not (kept := await queries.samples(since=0)):
            await asyncio.sleep(0.05)
        first = orjson.loads(kept[0])
        assert first in service.sampler.points
        hour = 3_600_000
        old = {**first, "at": first["at"] - hour}
        await queries.keep_sample(old["at"], orjson.dumps(old), since=0)
        ancient = first["at"] - 25 * hour
        await queries.keep_sample(ancient, b"{}", since=0)
        await queries.keep_sample(first["at"], b"not again", since=first["at"] - 24 * hour)
    again = Sampler(service.context("test"), interval=5.0)
    await again.look()
    assert [one["at"] for one in again.points][:2] == [old["at"], first["at"]]
    status = await status_answer(service.context("test"), counts=False)
    ages = {one["name"]: one["oldestAgeSeconds"] for one in status["queues"]}
    assert ages[topology.EVENTS] == 0.0

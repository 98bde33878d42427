"""Personal data and secrets go in by every way there is, and come out by none."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import apsw
import orjson
import pytest

from deploy.local.provide import PrivateBroker
from deploy.local.rabbitmq import free_port
from tests.support import events as ev
from tests.support.books import fetch
from tests.support.callbacks import sqlite_in
from tests.support.cli import correio
from tests.support.deliveries import until
from tests.support.endpoints import SECRET as ENDPOINT_SECRET
from tests.support.http import SECRET, ask, request
from tests.support.world import Listener, World, world

CPF = "39053344705"
WRITTEN = "390.533.447-05"
CNPJ = "12ABC34501DE35"
PASSWORD = "senha-do-parceiro"
NAME = "Joaquim José da Silva Xavier"
CALLBACK = f"https://parceiro:{PASSWORD}@example.com/{CPF}"

CANARIES = (CPF, WRITTEN, CNPJ, PASSWORD, NAME, SECRET, ENDPOINT_SECRET, "key=hidden")


def documented() -> list[dict[str, Any]]:
    """The ten events, each with personal data wherever an event has room for it."""
    made = []
    for number, name in enumerate(ev.NAMES):
        one = ev.event(name, at=number)
        one["payload"] |= {"personalTaxId": CPF, "businessTaxId": CNPJ}
        if "requestBody" in one["payload"]:
            one["payload"]["requestBody"] |= {
                "taxId": WRITTEN, "productCallbackUrl": {"pf_credit_card": CALLBACK},
            }  # fmt: skip
        one["externalInfo"] = {"name": NAME, "callback": CALLBACK}
        made.append(one)
    return made


def hostile() -> list[bytes]:
    """Requests that fail in different places, each with personal data in it."""
    unreadable = [
        {"eventName": "consent_authorised", "eventType": "api", "payload": {"taxId": CPF}},
        {"eventName": NAME, "eventType": CPF, "eventId": "x", "eventTime": WRITTEN},
        {"requestId": CPF, "productName": CNPJ},
        CPF, [NAME], int(CPF),
        documented()[1] | {"eventTime": CPF},
        documented()[1] | {"eventId": None, "partnerAppId": NAME},
        documented()[2] | {"payload": CALLBACK},
    ]  # fmt: skip
    return [
        request(orjson.dumps(unreadable)),
        request(f'{{"taxId":"{CPF}"'.encode()),
        request(f'"{WRITTEN}"'.encode()),
        request(CPF.encode()),
        request(b"[" * 5_000 + CPF.encode()),
        request(orjson.dumps([NAME]), X_Klavi_Signature="0" * 64),
        request(orjson.dumps([NAME]), X_Klavi_Signature=CPF),
        request(orjson.dumps([NAME]), path=f"/v1/webhooks/{CPF}?token={PASSWORD}"),
        request(orjson.dumps([NAME]), path=f"/{WRITTEN}"),
        request(orjson.dumps([NAME]), traceparent=CPF),
        request(orjson.dumps([NAME]), Content_Type=f"text/{CPF}"),
    ]


async def printed(everything: World, *arguments: str) -> str:
    """All that a command prints, whatever its answer."""
    _, out, err = await correio(everything.config, *arguments)
    return out + err


async def shown(everything: World) -> AsyncIterator[tuple[str, str]]:
    """Everything that somebody may get to see, by where they see it."""
    for role, part in everything.parts.items():
        yield f"log of {role}", part.log.read_text()
        async with aiohttp.ClientSession() as http:
            for page in ("metrics", "readyz", "livez"):
                async with http.get(f"http://127.0.0.1:{part.port}/{page}") as answer:
                    yield f"{page} of {role}", await answer.text()
    listed = orjson.loads(await printed(everything, "quarantine", "list", "--json"))
    assert listed["entries"]
    delivered = orjson.loads(await printed(everything, "deliveries", "list", "--json"))
    commands = [
        ["status"], ["doctor"], ["reconcile"], ["conflicts", "list"], ["endpoints", "list"],
        ["quarantine", "list"], ["deliveries", "list"], ["endpoints", "test", "crm"],
        ["trace", ev.CONSENT], ["trace", ev.LINK], ["trace", ev.REQUEST], ["trace", CPF[:-1]],
        ["state", "consent", ev.APP, ev.CONSENT], ["state", "link", ev.APP, ev.LINK],
        ["state", "product-request", ev.APP, ev.REQUEST],
        *(["quarantine", "show", one["id"]] for one in listed["entries"]),
        *(["deliveries", "show", one["id"]] for one in delivered["deliveries"][:12]),
    ]  # fmt: skip
    for command in commands:
        yield " ".join(command), await printed(everything, *command)
        yield " ".join([*command, "--json"]), await printed(everything, *command, "--json")


async def served(port: int, delivered: list[str]) -> AsyncIterator[tuple[str, str]]:
    """Everything that the console's page can ask for."""
    base = f"http://127.0.0.1:{port}/api"
    jar = aiohttp.CookieJar(unsafe=True)
    async with aiohttp.ClientSession(cookie_jar=jar) as http:

        async def answer(path: str) -> str:
            async with http.get(f"{base}/{path}") as answered:
                assert answered.status in (200, 404), path
                return await answered.text()

        await answer("session")
        entries = orjson.loads(await answer("quarantine?status="))["entries"]
        assert entries
        paths = [
            "overview", "history", "endpoints", "audit", "deliveries", "quarantine?status=",
            f"trace?id={ev.CONSENT}", f"trace?id={ev.LINK}", f"trace?id={ev.REQUEST}",
            f"trace?id={CPF[:-1]}", "deliveries?error=500",
            *(f"quarantine/{one['id']}" for one in entries),
            *(f"deliveries/{one}" for one in delivered),
        ]  # fmt: skip
        for path in paths:
            yield f"page {path}", await answer(path)


async def misfortunes(everything: World) -> None:
    """The endpoint refuses and quotes what it got, the store is locked, the broker dies."""
    refusal = (500, {"x-who": CPF}, f"{WRITTEN} {CNPJ} not found".encode())
    everything.endpoint.answers = [refusal] * 12
    receiver = Listener(everything.port)
    other = apsw.Connection(str(everything.folder / "correio.db"))
    other.execute("BEGIN IMMEDIATE")
    answer = await ask(receiver, request(ev.dump(documented())))
    assert answer.status == 200
    await until(lambda: "store.unavailable" in everything.parts["events"].log.read_text())
    other.execute("ROLLBACK")
    other.close()
    for one in hostile():
        assert (await ask(receiver, one)).status < 500
    everything.source.made += documented()
    await everything.strike("broker", pause=0)
    assert (await ask(receiver, request(ev.dump(documented())))).status == 200


@pytest.mark.timeout(180)
async def test_nothing_personal_and_no_secret_is_shown(
    tmp_path: Path, private_broker: PrivateBroker
) -> None:
    page = free_port()
    more = {"log": {"level": "debug"}, "console": {"port": page, "sample_interval": 0.5}}
    async with world(tmp_path, private_broker, sqlite_in(tmp_path), **more) as everything:
        await misfortunes(everything)
        await everything.settled()
        secrets = [*CANARIES, everything.broker.url.split(":")[2].split("@")[0]]
        async for place, text in shown(everything):
            for secret in secrets:
                assert secret not in text, f"{secret} in {place}"
        rows = fetch(everything.store, "SELECT id FROM deliveries")
        async for place, text in served(page, [one for (one,) in rows]):
            # what was quarantined is shown on request, without tax ids and passwords
            on_request = {NAME} if place.startswith("page quarantine/") else set()
            for secret in set(secrets) - on_request:
                assert secret not in text, f"{secret} in {place}"

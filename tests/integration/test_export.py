"""What is handed out to somebody who asks for all that is held about them."""

from pathlib import Path
from typing import Any

import orjson
import pytest

from shared.clock import SystemClock
from shared.config import Config, EndpointConfig, Secret
from shared.store.port import Store
from shared.store.rows import AttemptRecord, DeliveryState
from tests.support import books
from tests.support import events as ev
from tests.support.cli import correio
from tests.support.processes import write_config
from worker.events.apply import Applier
from worker.events.arrivals import Arrival

CONFIG = Config(endpoint=(EndpointConfig(id="crm", url="http://x", secrets=(Secret("s"),)),))
ANA, BOB = "52998224725", "11222333000181"


def made(name: str, at: int, of: str, **more: Any) -> dict[str, Any]:
    """An event of this tax id, about a link, consent or request of its owner."""
    ids = {"linkId": f"l-{of}"} if name != "product_generated_failed" else {}
    if name.startswith("consent"):
        ids["consentId"] = f"c-{of}"
    if name.startswith("product"):
        ids["requestId"] = f"r-{of}"
    made = ev.event(name, at=at, event_id=f"{name}-{of}", **ids, **more)
    made["payload"]["personalTaxId"] = of
    made["externalInfo"] = {"note": f"of {of}"}
    if name == "product_request_received":
        made["payload"]["requestBody"]["taxId"] = of
    return made


@pytest.fixture
async def config(store: Store, store_url: str, tmp_path: Path) -> Path:
    """A store that knows Ana and Bob, and has of each something in quarantine."""
    names = ("link_created", "consent_authorised", "product_request_received",
             "product_generated_failed", "consent_revoked")  # fmt: skip
    bodies = [ev.dump(made(name, at, of)) for of in (ANA, BOB) for at, name in enumerate(names)]
    bodies += [
        b'{"cpf":"529.982.247-25"}', b'{"cnpj":"11.222.333/0001-81"}', b'{"n":"452998224725"}',
    ]  # fmt: skip
    applier = Applier(store, CONFIG, clock=SystemClock())
    await applier.apply([Arrival(one, "klavi", "b", ev.EPOCH) for one in bodies])
    ((one,),) = books.fetch(
        store_url,
        "SELECT d.id FROM deliveries d JOIN aggregates a ON a.id = d.aggregate_id "
        f"WHERE a.key = 'c-{ANA}' AND d.version = 1",
    )
    now = SystemClock().now()
    await store.claim([one], lease="L", now=now, lease_until=now + 1000)
    await store.record([
        AttemptRecord(one, "L", 1, now, 5, "http_error", 500, "500", b"no Ana here",
                      DeliveryState.RETRYING, now)
    ])  # fmt: skip
    return write_config(tmp_path, store={"url": store_url})


async def ask(config: Path, *arguments: str, exits: int = 0) -> Any:
    status, out, err = await correio(config, "export", "subject", *arguments, "--json")
    assert status == exits, err
    return orjson.loads(out) if out else err


async def test_everything_of_one_person_and_nothing_of_another(
    config: Path, store_url: str
) -> None:
    answer = await ask(config, "529.982.247-25")
    assert answer["subject"] == "***.982.247-**"
    assert {(one["aggregate"], one["id"]) for one in answer["aggregates"]} == {
        ("link", f"l-{ANA}"), ("consent", f"c-{ANA}"), ("product_request", f"r-{ANA}"),
    }  # fmt: skip
    consent = next(one for one in answer["aggregates"] if one["aggregate"] == "consent")
    assert consent["status"] == "REVOKED"
    assert consent["state"]["permissions_granted"] == ["REGISTRATION_ALL", "ACCOUNTS_ALL"]
    assert [one["eventId"] for one in consent["facts"]] == [
        f"consent_authorised-{ANA}", f"consent_revoked-{ANA}",
    ]  # fmt: skip
    assert consent["told"][0]["data"]["permissionsGranted"]
    assert [one["answers"] for one in consent["deliveries"]] == [["no Ana here"], []]
    assert len(answer["events"]) == 5
    assert all(one["body"]["payload"]["personalTaxId"] == ANA for one in answer["events"])
    assert all(one["body"]["externalInfo"] for one in answer["events"])
    assert [one["body"] for one in answer["quarantine"]] == [{"cpf": "529.982.247-25"}]
    assert BOB not in orjson.dumps(answer).decode()
    assert answer["notSearched"]


async def test_who_looked_is_recorded_without_the_tax_id(config: Path, store_url: str) -> None:
    await ask(config, ANA)
    ((actor, action, target, detail),) = books.fetch(
        store_url, "SELECT actor, action, target, detail FROM audit"
    )
    assert actor.endswith("@cli")
    assert action == "export.subject"
    assert detail == "3 aggregates, 5 events, 1 quarantine entries"
    assert ANA not in target + detail


async def test_what_is_not_kept_any_more_is_told_as_missing(config: Path, store: Store) -> None:
    await store.change([("DELETE FROM payloads", ()), ("DELETE FROM data_keys", ())])
    answer = await ask(config, ANA)
    assert {one["body"] for one in answer["events"]} == {None}
    consent = next(one for one in answer["aggregates"] if one["aggregate"] == "consent")
    assert "permissions_granted" not in consent["state"]


async def test_nobody_known_is_a_no_and_no_tax_id_is_usage(config: Path) -> None:
    assert (await ask(config, "39053344705", exits=1))["events"] == []
    assert "TAXID" in await ask(config, "ana", exits=2)


async def test_a_file_of_its_own_that_nobody_else_reads(config: Path, tmp_path: Path) -> None:
    target = tmp_path / "ana.json"
    status, out, _ = await correio(config, "export", "subject", ANA, "--to", str(target))
    assert (status, ANA in out) == (0, False)
    assert target.stat().st_mode & 0o777 == 0o600
    assert len(orjson.loads(target.read_bytes())["events"]) == 5
    status, _, err = await correio(config, "export", "subject", ANA, "--to", str(target))
    assert (status, "exists" in err) == (2, True)

"""The command line as an operator uses it: a process, its output, its exit status."""

import asyncio
import io
import os
import sys
from pathlib import Path

import apsw
import pytest
from rich.console import Console

from console.context import Context
from console.stuck import find_stuck
from shared.broker import topology
from shared.broker.depth import depths
from shared.clock import SystemClock
from shared.config import Config, Secret, StoreConfig
from shared.store.open import open_store
from shared.store.port import Store
from shared.store.rows import AttemptRecord, DeliveryState
from tests.support import books
from tests.support import events as ev
from tests.support.cli import CONFIG, Cli, fill, set_up
from worker.events.apply import Applier
from worker.events.arrivals import Arrival


@pytest.fixture
async def correio(tmp_path: Path, broker_url: str, store_url: str) -> Cli:
    await topology.declare(broker_url)
    return set_up(tmp_path, broker_url, store_url)


@pytest.fixture
async def filled(store: Store) -> Store:
    await fill(store)
    return store


async def test_state_of_each_kind(correio: Cli, filled: Store) -> None:
    gone = await correio("state", "consent", ev.APP, "gone")
    assert gone == {
        "aggregate": "consent", "partnerAppId": ev.APP, "id": "gone", "version": 1,
        "status": "DELETED_BY_USER", "conflict": False, "usable": False, "linkId": ev.LINK,
        "institutionCode": None, "externalTrackId": None, "permissionsApply": [],
        "permissionsGranted": [], "expireAt": None, "updatedAt": ev.iso(ev.EPOCH + 6),
    }  # fmt: skip
    request = await correio("state", "product-request", ev.APP, ev.REQUEST)
    assert request["status"] == "PENDING"
    assert request["products"]["pf_checking_account"] == {
        "status": "SUCCEEDED", "successes": 1, "failures": 1,
        "failureReason": "no checking account",
    }  # fmt: skip
    link = await correio("state", "link", ev.APP, ev.LINK)
    assert (link["status"], link["consents"]) == ("CREATED", [ev.CONSENT, "gone"])


async def test_state_of_a_consent_that_stands(correio: Cli, store: Store) -> None:
    applier = Applier(store, Config(), clock=SystemClock())
    await applier.apply([Arrival(ev.raw("consent_authorised"), "klavi", "b", ev.EPOCH)])
    assert await correio("state", "consent", ev.APP, ev.CONSENT) == {
        "aggregate": "consent", "partnerAppId": ev.APP, "id": ev.CONSENT, "version": 1,
        "status": "AUTHORISED", "conflict": False, "usable": False, "linkId": ev.LINK,
        "institutionCode": "033", "externalTrackId": "222121",
        "permissionsApply": ["REGISTRATION_ALL", "ACCOUNTS_ALL", "CREDIT_CARDS_ALL",
                             "CREDIT_OPERATIONS_ALL", "INVESTMENTS_ALL"],
        "permissionsGranted": ["REGISTRATION_ALL", "ACCOUNTS_ALL"],
        "expireAt": "2024-06-25T20:08:17.848Z", "updatedAt": ev.iso(ev.EPOCH),
    }  # fmt: skip


async def test_tables_show_whole_ids_however_narrow_the_terminal(
    correio: Cli, filled: Store
) -> None:
    written = await correio.text("trace", ev.CONSENT)
    line = next(one for one in written.splitlines() if "consent_authorised-1" in one)
    assert "applied" in line
    assert "klavi" in line
    narrow, context = io.StringIO(), Context()
    context.screen = Console(width=60, force_terminal=True, file=narrow, color_system=None)
    context.table("Events", ("id", "kind"), [("x" * 70, "y" * 50)])
    assert (narrow.getvalue().count("x"), narrow.getvalue().count("y")) == (70, 50)


async def test_what_is_unknown_is_a_no(correio: Cli) -> None:
    assert await correio("state", "link", ev.APP, "nobody", exits=1) is None
    assert await correio("trace", "nobody", exits=1) == {
        "events": [], "transitions": [], "deliveries": [],
    }  # fmt: skip


async def test_usage_is_two(correio: Cli) -> None:
    assert "Usage" in await correio.text("state", "house", exits=2)


async def test_a_wrong_variable_is_two_and_named_by_the_real_command(correio: Cli) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "console.cli", "status",
        env={"PATH": os.environ["PATH"], "CORREIO_CONFIG": str(correio.path),
             "CORREIO_RECEIVER__PORTT": "1"},
        stderr=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    _, err = await process.communicate()
    assert process.returncode == 2
    assert b"CORREIO_RECEIVER__PORTT: no field 'portt' in [receiver]" in err
    assert b"Traceback" not in err


@pytest.mark.parametrize("name", [ev.CONSENT, ev.LINK, ev.REQUEST])
async def test_trace_by_aggregate(correio: Cli, filled: Store, name: str) -> None:
    trace = await correio("trace", name)
    names = {one["eventName"] for one in trace["events"]}
    wanted = {
        ev.CONSENT: {n for n in ev.NAMES if n.startswith("consent") and "deleted" not in n},
        ev.REQUEST: {n for n in ev.NAMES if n.startswith("product")},
        ev.LINK: set(ev.NAMES),
    }[name]
    assert names == wanted
    ids = {one["id"] for one in trace["transitions"]}
    assert name in ids
    assert len(trace["deliveries"]) == len(trace["transitions"])
    assert all(one["attempts"] == [] for one in trace["deliveries"])


async def test_trace_by_event(correio: Cli, filled: Store) -> None:
    trace = await correio("trace", "link_created-0")
    (event,) = trace["events"]
    assert (event["label"], event["duplicates"], event["source"]) == ("applied", 1, "klavi")
    assert event["taxIds"] == "valid"
    (transition,) = trace["transitions"]
    assert (transition["from"], transition["to"]) == ("PLACEHOLDER", "CREATED")
    assert transition["eventId"] == "link_created-0"
    (delivery,) = trace["deliveries"]
    assert (delivery["endpoint"], delivery["type"]) == ("crm", "link.created")


async def test_status_counts_and_names_what_it_cannot_read(correio: Cli, filled: Store) -> None:
    status = await correio("status")
    assert status["events"] == {"applied": 10, "duplicate": 1, "quarantined": 1} | {
        label: count for label, count in status["events"].items() if label in ("stale", "recorded")
    } | {"applied": status["events"]["applied"]}
    assert status["quarantine"] == {"no_event_name": 1}
    assert status["spool"] == {"events": 0, "bytes": 0, "oldestAgeSeconds": 0.0}
    queues = {one["name"]: one for one in status["queues"]}
    assert queues[topology.EVENTS]["ready"] == 0
    assert queues[topology.EVENTS]["unacknowledged"] is None
    assert f"{topology.EVENTS}.unacknowledged" in status["unavailable"]


async def test_status_without_broker_and_store_says_so(tmp_path: Path) -> None:
    correio = set_up(tmp_path, "amqp://guest:guest@127.0.0.1:1/", f"sqlite:///{tmp_path}/none.db")
    status = await correio("status", exits=1)
    assert {"queues", "events", "quarantine", "deliveries"} <= set(status["unavailable"])
    assert status["deliveries"] is None
    assert all(one["ready"] is None for one in status["queues"])


async def test_a_spool_that_is_not_on_this_machine_is_unavailable_and_no_fault(
    correio: Cli, filled: Store
) -> None:
    (correio.path.parent / "spool").rmdir()
    status = await correio("status")
    assert status["spool"] is None
    assert "spool" in status["unavailable"]
    assert "cannot be read: spool: there is no folder" in await correio.text("status")
    books = await correio("reconcile")
    assert books["balanced"]
    assert (books["beside"]["spool"], books["unavailable"]) == (None, ["spool"])
    assert "cannot be read: spool: there is no folder" in await correio.text("reconcile")


async def test_a_spool_file_that_cannot_be_read_is_a_no(correio: Cli, filled: Store) -> None:
    (correio.path.parent / "spool" / "spool-1.db").write_bytes(b"this is no database" * 100)
    status = await correio("status", exits=1)
    assert (status["spool"], status["unavailable"][-1]) == (None, "spool")
    assert "cannot be read: spool: a file in" in await correio.text("status", exits=1)


async def test_what_is_in_quarantine_is_found_by_its_event_id(correio: Cli, store: Store) -> None:
    body = ev.dump(ev.event("consent_authorised", at=1) | {"eventName": "consent_revived"})
    arrival = Arrival(body, "klavi", "b", ev.EPOCH, event_id="known-to-the-source")
    await Applier(store, CONFIG, clock=SystemClock()).apply([arrival, arrival])
    (entry,) = (await correio("quarantine", "list"))["entries"]
    assert entry["eventId"] == "known-to-the-source"
    (event,) = (await correio("trace", "known-to-the-source"))["events"]
    assert event == {
        "eventId": "known-to-the-source", "eventName": None, "eventTime": None,
        "receivedAt": ev.iso(ev.EPOCH), "source": "klavi", "label": "quarantined",
        "duplicates": 1, "taxIds": None,
        "quarantine": {"id": entry["id"], "reason": "unknown_event", "status": "open"},
    }  # fmt: skip
    assert "unknown_event" in await correio.text("trace", "known-to-the-source")


async def test_quarantine_from_list_to_replay(
    correio: Cli, filled: Store, broker_url: str, store_url: str
) -> None:
    (entry,) = (await correio("quarantine", "list"))["entries"]
    assert (entry["reason"], entry["source"], entry["seen"]) == ("no_event_name", "klavi", 1)
    shown = await correio("quarantine", "show", entry["id"], "--body")
    assert shown["body"] == '{"cpf":"***.722.521-**"}'
    open_book = await correio("quarantine", "show", entry["id"], "--unmask")
    assert open_book["body"] == '{"cpf":"25872252137"}'
    assert books.fetch(store_url, "SELECT action FROM audit") == [("quarantine.unmask",)]

    dry = await correio("quarantine", "replay", "--reason", "no_event_name")
    assert dry == {"count": 1, "dryRun": True}
    assert await _ready(broker_url) == 0
    assert await correio("quarantine", "replay", entry["id"], "--yes") == {
        "count": 1, "dryRun": False,
    }  # fmt: skip
    assert await _ready(broker_url) == 1

    assert await correio("quarantine", "discard", entry["id"], "--yes") == {
        "count": 1, "dryRun": False,
    }  # fmt: skip
    assert (await correio("quarantine", "list"))["entries"] == []
    await correio("quarantine", "discard", entry["id"], "--yes", exits=1)
    await correio.text("quarantine", "discard", exits=2)


async def _ready(url: str) -> int:
    return next(one.ready for one in await depths(Secret(url)) if one.name == topology.EVENTS)


async def exhaust(store: Store) -> int:
    """Let every delivery fail for good."""
    now = SystemClock().now()
    wakeups = await store.take_wakeups(now=now + 1, grace=0, limit=1_000)
    ids = [one.id for one in wakeups]
    await store.claim(ids, lease="L", now=now + 1, lease_until=now + 60_000)
    await store.record([
        AttemptRecord(one, "L", 1, now, 5, "http_status", 500, "status 500", b"no",
                      DeliveryState.EXHAUSTED, 0)
        for one in ids
    ])  # fmt: skip
    return len(ids)


async def test_exhausted_deliveries_are_replayed_once_and_can_be_stopped(
    correio: Cli, filled: Store
) -> None:
    count = await exhaust(filled)
    listed = await correio("deliveries", "list", "--state", "exhausted", "--limit", "3")
    assert (listed["count"], len(listed["deliveries"])) == (count, 3)
    one = listed["deliveries"][0]
    shown = await correio("deliveries", "show", one["id"])
    assert shown["attempts"][0]["status"] == 500
    assert shown["attempts"][0]["answer"] == "no"

    none = await correio("deliveries", "replay", "--endpoint", "other", exits=1)
    assert none["count"] == 0
    dry = await correio("deliveries", "replay", "--error", "http_status")
    assert (dry["count"], dry["dryRun"]) == (count, True)
    done = await correio("deliveries", "replay", "--endpoint", "crm", "--rate", "1", "--yes")
    assert done["count"] == count
    again = await correio("deliveries", "replay", "--endpoint", "crm", "--yes", exits=1)
    assert again["count"] == 0

    mine = await correio("deliveries", "list", "--replay", done["replay"])
    assert mine["count"] == count
    dues = sorted(d.due_at for d in await filled.load([d["id"] for d in mine["deliveries"]]))
    assert dues[-1] - dues[0] == (count - 1) * 1_000
    assert {d.round_start for d in await filled.load([one["id"]])} == {1}

    stopped = await correio("deliveries", "cancel", "--replay", done["replay"], "--yes")
    assert stopped["count"] == count
    assert (await correio("deliveries", "list", "--state", "exhausted"))["count"] == count


async def test_what_was_delivered_is_so_again_when_its_replay_is_stopped(
    correio: Cli, filled: Store
) -> None:
    listed = await correio("deliveries", "list", "--endpoint", "crm")
    one = listed["deliveries"][0]["id"]
    await filled.change([
        ("UPDATE deliveries SET state = 'delivered', last_outcome = 'succeeded' WHERE id = ?",
         (one,)),
    ])  # fmt: skip
    done = await correio("deliveries", "replay", one, "--include-delivered", "--yes")
    assert (await correio("deliveries", "show", one))["state"] == "pending"
    await correio("deliveries", "cancel", "--replay", done["replay"], "--yes")
    assert (await correio("deliveries", "show", one))["state"] == "delivered"


async def test_waiting_deliveries_can_be_cancelled(correio: Cli, filled: Store) -> None:
    await correio.text("deliveries", "cancel", "--yes", exits=2)
    before = (await correio("deliveries", "list", "--type", "link.created"))["count"]
    dry = await correio("deliveries", "cancel", "--type", "link.created")
    assert dry == {"count": before, "dryRun": True}
    await correio("deliveries", "cancel", "--type", "link.created", "--yes")
    listed = await correio("deliveries", "list", "--type", "link.created")
    assert {one["state"] for one in listed["deliveries"]} == {"cancelled"}


async def test_what_is_exhausted_for_a_removed_endpoint_is_freed_by_the_command_named(
    correio: Cli, filled: Store
) -> None:
    count = await exhaust(filled)
    correio.path.write_text(correio.path.read_text().replace('"crm"', '"erp"'))
    (gone,) = [one for one in (await correio("endpoints", "list"))["endpoints"]
               if one["status"] == "removed"]  # fmt: skip
    (found,) = find_stuck(await correio("status") | {"queues": [], "quarantine": {}}, [gone])
    assert found.what == f"{count} deliveries to crm, no longer configured, are exhausted."
    _, *command = found.command.split()
    assert (await correio(*command))["count"] == count
    listed = await correio("deliveries", "list", "--endpoint", "crm")
    assert {one["state"] for one in listed["deliveries"]} == {"cancelled"}


async def test_endpoints_are_paused_and_resumed(correio: Cli, filled: Store) -> None:
    await correio("endpoints", "pause", "crm", "--reason", "moving house")
    (row,) = (await correio("endpoints", "list"))["endpoints"]
    assert (row["id"], row["status"], row["reason"]) == ("crm", "paused", "moving house")
    assert row["deliveries"]["pending"] > 0
    await correio("endpoints", "resume", "crm")
    (row,) = (await correio("endpoints", "list"))["endpoints"]
    assert row["status"] == "enabled"
    assert "no endpoint" in await correio.text("endpoints", "pause", "nobody", exits=1)


async def test_a_conflict_is_cleared_and_told(correio: Cli, store: Store, store_url: str) -> None:
    applier = Applier(store, CONFIG, clock=SystemClock())
    made = [ev.event("consent_revoked", at=1), ev.event("consent_authorised", at=2)]
    await applier.apply([Arrival(ev.dump(one), "klavi", "b", ev.EPOCH) for one in made])
    (found,) = (await correio("conflicts", "list"))["conflicts"]
    assert found == {"partnerAppId": ev.APP, "id": ev.CONSENT, "status": "AUTHORISED"}
    assert await correio("conflicts", "clear", ev.APP, ev.CONSENT) == {"cleared": True}
    assert (await correio("conflicts", "list"))["conflicts"] == []
    await correio("conflicts", "clear", ev.APP, ev.CONSENT, exits=1)
    books.check(books.read(store_url))
    assert (await correio("reconcile"))["balanced"]


async def test_balanced_books(correio: Cli, filled: Store) -> None:
    answer = await correio("reconcile")
    assert answer["balanced"]
    assert all(one["ok"] and one["expected"] == one["found"] for one in answer["checks"])
    assert (answer["beside"]["spool"], answer["unavailable"]) == (0, [])


@pytest.mark.parametrize(
    ("statement", "check"),
    [
        ("UPDATE events SET label = 'odd' WHERE label = 'applied'", "exactly one label"),
        ("UPDATE aggregates SET version = version + 1", "versions have no gap"),
        ("DELETE FROM transitions WHERE version = 1", "versions have no gap"),
        ("DELETE FROM history", "folding every history anew"),
        ("DELETE FROM deliveries WHERE version = 1", "every version has its notifications"),
        ("UPDATE deliveries SET state = 'lost'", "in exactly one state"),
        ("UPDATE deliveries SET attempts = 3", "attempts are numbered"),
        ("UPDATE deliveries SET state = 'delivered'", "has a successful attempt"),
        ("UPDATE deliveries SET due_at = 1", "later than it may be"),
        ("DELETE FROM events", "every payload has its event"),
    ],
)
async def test_books_that_were_tampered_with(
    correio: Cli, filled: Store, statement: str, check: str
) -> None:
    await filled.change([(statement, ())])
    answer = await correio("reconcile", exits=1)
    assert not answer["balanced"]
    assert any(check in one["name"] for one in answer["checks"] if not one["ok"])


async def test_what_is_over_its_age_is_shown_and_then_removed(
    correio: Cli, filled: Store, store_url: str
) -> None:
    text = correio.path.read_text()
    correio.path.write_text(f"{text}\n[retention]\npayload_days = 30\naudit_days = 0\n")
    shown = await correio("retention")
    due = {one["kind"]: one for one in shown["due"]}
    assert (due["payloads"]["days"], due["payloads"]["count"]) == (30, 9)
    assert (due["audit"]["before"], due["audit"]["count"]) == (None, None)
    assert due["attempts"]["count"] == 0
    assert shown["oldest"]["payloads"] == ev.iso(ev.EPOCH)
    assert "payloads" in await correio.text("retention")
    assert books.fetch(store_url, "SELECT count(*) FROM payloads") == [(9,)]
    assert (await correio("retention", "--yes"))["removed"]["payloads"] == 9
    assert books.fetch(store_url, "SELECT count(*) FROM payloads") == [(0,)]
    assert (await correio("retention"))["endedAt"] > shown["endedAt"]
    assert (await correio("reconcile"))["balanced"]
    assert books.fetch(store_url, "SELECT action FROM audit") == [("retention",)]
    await filled.change([("UPDATE leases SET held_until = ?", (2**50,))])
    assert await correio("retention", "--yes", exits=1) == {"removed": None}


async def test_migrate_may_be_repeated(
    tmp_path: Path, broker_url: str, empty_store_url: str
) -> None:
    correio = set_up(tmp_path, broker_url, empty_store_url)
    first = await correio("migrate")
    assert first["applied"]
    assert (await correio("migrate"))["applied"] == []
    assert {one.name for one in await depths(Secret(broker_url))} == set(topology.QUEUES)
    opened = open_store(StoreConfig(url=Secret(empty_store_url)))
    await opened.start()
    await opened.close()


async def test_nobody_else_reads_a_backup(tmp_path: Path, broker_url: str) -> None:
    correio = set_up(tmp_path, broker_url, f"sqlite:///{tmp_path}/store.db")
    await correio("migrate")
    await correio("backup", str(tmp_path / "copy"))
    for one in ("copy", "copy.keys"):
        assert (tmp_path / one).stat().st_mode & 0o777 == 0o600
    nowhere = str(tmp_path / "gone" / "copy")
    said = await correio.text("backup", nowhere, exits=1)
    assert said == f"correio: {nowhere}: No such file or directory\n"


async def test_commands_without_schema_say_what_to_run(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    apsw.Connection(str(path)).close()
    correio = set_up(tmp_path, "amqp://127.0.0.1:1/", f"sqlite:///{path}")
    assert "correio migrate" in await correio.text("quarantine", "list", exits=1)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
async def test_completion(correio: Cli, shell: str) -> None:
    assert "_CORREIO_COMPLETE" in await correio.text("completion", shell)

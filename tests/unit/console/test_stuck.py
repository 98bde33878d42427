from typing import Any

import pytest

from console.stuck import find_stuck
from shared.broker.topology import CALLBACKS, DEAD, EVENTS


def queue(name: str, **figures: Any) -> dict[str, Any]:
    still = {"ready": 0, "unacknowledged": None, "consumers": 1, "oldestAgeSeconds": 0.0}
    return {"name": name, **still, **figures}


def status(*queues: dict[str, Any], **members: Any) -> dict[str, Any]:
    return {
        "queues": list(queues), "spool": {"events": 0, "bytes": 0, "oldestAgeSeconds": 0.0},
        "events": {}, "quarantine": {}, "deliveries": {}, "unavailable": [], **members,
    }  # fmt: skip


def endpoint(state: str = "enabled", **deliveries: int) -> dict[str, Any]:
    return {"id": "crm", "status": state, "deliveries": deliveries}


def test_nothing_is_stuck_when_all_is_well() -> None:
    calm = status(queue(EVENTS, ready=3), queue(CALLBACKS, oldestAgeSeconds=2.0), queue(DEAD))
    assert find_stuck(calm, [endpoint(delivered=5, pending=1)]) == []
    assert find_stuck(calm, [endpoint("removed", delivered=5)]) == []


@pytest.mark.parametrize(
    ("seen", "endpoints", "key", "command"),
    [
        (status(unavailable=["queues"]), [], "broker", "correio doctor"),
        (status(unavailable=["events", "quarantine", "deliveries"]), [], "store",
         "correio doctor"),
        (status(queue(EVENTS, ready=9, consumers=0)), [], "correio.events.consumers",
         "python -m worker events"),
        (status(queue(CALLBACKS, consumers=0)), [], "correio.callbacks.consumers",
         "python -m worker callbacks"),
        (status(queue(DEAD, ready=1)), [], "dead", "python -m worker events"),
        (status(spool={"events": 4, "bytes": 9, "oldestAgeSeconds": 90.0}), [], "spool",
         "correio doctor"),
        (status(queue(CALLBACKS, oldestAgeSeconds=61.0)), [], "late",
         "correio deliveries list --state pending --state retrying"),
        (status(), [endpoint("paused", held=2)], "held.crm", "correio endpoints resume crm"),
        (status(), [endpoint("disabled")], "held.crm", "correio endpoints resume crm"),
        (status(), [endpoint("removed", held=2)], "held.crm",
         "correio deliveries cancel --endpoint crm --yes"),
        (status(), [endpoint(exhausted=2)], "exhausted.crm",
         "correio deliveries replay --endpoint crm --yes"),
        (status(), [endpoint("removed", exhausted=2)], "exhausted.crm",
         "correio deliveries cancel --endpoint crm --yes"),
        (status(quarantine={"unknown_event": 3}), [], "quarantine.unknown_event",
         "correio quarantine list --reason unknown_event"),
    ],
)  # fmt: skip
def test_each_trouble_has_its_command(
    seen: dict[str, Any], endpoints: list[dict[str, Any]], key: str, command: str
) -> None:
    (found,) = find_stuck(seen, endpoints)
    assert (found.key, found.command) == (key, command)


def test_the_gravest_comes_first() -> None:
    seen = status(queue(EVENTS, consumers=0), quarantine={"unreadable": 1})
    found = find_stuck(seen, [endpoint("paused", held=1)])
    assert [one.severity for one in found] == ["critical", "warning", "notice"]


@pytest.mark.parametrize(
    ("seconds", "said"), [(45, "45 s"), (61, "1 min"), (7_300, "2 h"), (172_800, "2 d")]
)
def test_ages_are_said_as_people_say_them(seconds: float, said: str) -> None:
    spool = {"events": 1, "bytes": 1, "oldestAgeSeconds": seconds}
    (found,) = find_stuck(status(spool=spool), [])
    assert found.what.endswith(f"for {said}.")

"""What is stuck, and what frees it: read off the figures, without looking anywhere itself."""

from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import Struct

from shared.broker.topology import CALLBACKS, DEAD, EVENTS

LATE = 60.0
"""Seconds past its due time from which a callback is late."""

OLD_SPOOL = 30.0
"""Seconds after which what lies in a spool should have been drained."""


class Finding(Struct, frozen=True, rename="camel"):
    """One thing that is stuck. `view` is the part of the page that has the buttons."""

    key: str
    severity: str
    what: str
    command: str
    view: str = ""
    since: int | None = None


def find_stuck(status: Mapping[str, Any], endpoints: Sequence[Mapping[str, Any]]) -> list[Finding]:
    """Everything that waits for a person, the gravest first.

    Args:
        status: as `console.look.status_answer` gives it.
        endpoints: as `console.endpoints.endpoints_answer` gives them.
    """
    found = [*_unreachable(status), *_queues(status), *_spool(status)]
    found += [*_deliveries(status, endpoints), *_quarantine(status)]
    return sorted(found, key=lambda one: ("critical", "warning", "notice").index(one.severity))


def _unreachable(status: Mapping[str, Any]) -> list[Finding]:
    found = []
    if "queues" in status["unavailable"]:
        what = "The broker cannot be reached; receivers spool to their disk meanwhile."
        found.append(Finding("broker", "critical", what, "correio doctor"))
    if "events" in status["unavailable"]:
        what = "The store cannot be reached; workers wait and events stay in their queue."
        found.append(Finding("store", "critical", what, "correio doctor"))
    return found


def _queues(status: Mapping[str, Any]) -> list[Finding]:
    workers = {EVENTS: "events", CALLBACKS: "callbacks"}
    found = []
    for queue in status["queues"]:
        name, ready = queue["name"], queue["ready"]
        if name in workers and queue["consumers"] == 0:
            what = f"No {workers[name]} worker runs; {ready} messages wait in {name}."
            command = f"python -m worker {workers[name]}"
            found.append(Finding(f"{name}.consumers", "critical", what, command))
        elif name == DEAD and ready:
            what = f"{ready} dead letters wait to be taken into the quarantine."
            found.append(Finding("dead", "warning", what, "python -m worker events"))
    return found


def _spool(status: Mapping[str, Any]) -> list[Finding]:
    spool = status["spool"]
    if not spool or not spool["events"] or spool["oldestAgeSeconds"] < OLD_SPOOL:
        return []
    what = f"{spool['events']} events lie in the spool, the oldest for {_age(spool)}."
    return [Finding("spool", "warning", what, "correio doctor")]


def _deliveries(status: Mapping[str, Any], endpoints: Sequence[Mapping[str, Any]]) -> list[Finding]:
    found = []
    for queue in status["queues"]:
        if queue["name"] == CALLBACKS and (queue["oldestAgeSeconds"] or 0) > LATE:
            what = f"Callbacks are late: one has been due for {_age(queue)}."
            command = "correio deliveries list --state pending --state retrying"
            found.append(Finding("late", "critical", what, command, "deliveries"))
    for one in endpoints:
        name, states = one["id"], one["deliveries"]
        if one["status"] == "removed":
            found += _removed(name, states)
            continue
        if one["status"] != "enabled" or states.get("held"):
            what = f"{name} is {one['status']}; {states.get('held', 0)} deliveries are held for it."
            command = f"correio endpoints resume {name}"
            found.append(Finding(f"held.{name}", "warning", what, command, "endpoints"))
        if states.get("exhausted"):
            what = f"{states['exhausted']} deliveries to {name} are exhausted."
            command = f"correio deliveries replay --endpoint {name} --yes"
            found.append(Finding(f"exhausted.{name}", "warning", what, command, "deliveries"))
    return found


def _removed(name: str, states: Mapping[str, int]) -> list[Finding]:
    """Nothing can be resumed, and what is replayed would be held: both can be cancelled."""
    command = f"correio deliveries cancel --endpoint {name} --yes"
    found = []
    if held := states.get("held"):
        what = f"{name} is no longer configured; {held} deliveries are held for it."
        found.append(Finding(f"held.{name}", "warning", what, command, "deliveries"))
    if exhausted := states.get("exhausted"):
        what = f"{exhausted} deliveries to {name}, no longer configured, are exhausted."
        found.append(Finding(f"exhausted.{name}", "warning", what, command, "deliveries"))
    return found


def _quarantine(status: Mapping[str, Any]) -> list[Finding]:
    return [
        Finding(
            f"quarantine.{reason}",
            "notice",
            f"{count} quarantine entries are open: {reason}.",
            f"correio quarantine list --reason {reason}",
            "quarantine",
        )
        for reason, count in (status["quarantine"] or {}).items()
    ]


def _age(figures: Mapping[str, Any]) -> str:
    seconds = int(figures["oldestAgeSeconds"])
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"

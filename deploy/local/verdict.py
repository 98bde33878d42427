"""Whether what the demo saw is what the domain demands: pure, and without the code under test."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from msgspec import Struct

from deploy.local.endpoint import Received
from deploy.local.scenario import EXPECTED, REPEATS, Final

Aggregate = tuple[str, str]


class Answer(Struct, frozen=True):
    """What one batch was answered."""

    sent: int
    status: int
    body: Any


class Observed(Struct):
    """All that the demo saw.

    Attributes:
        answers: one for each batch.
        callbacks: what the endpoint got, in order of arrival, failed attempts included.
        refused: callbacks whose signature did not fit.
        states: ``correio state`` by aggregate; None where it is unknown.
        traces: ``correio trace`` by aggregate.
        status: ``correio status``.
        depths: messages in each queue after the processes have ended.
        books: ``correio reconcile``.
        refused_type: callback type whose first attempts the endpoint answered 500.
        refusals: how many those were.
    """

    answers: list[Answer]
    callbacks: list[Received]
    refused: int
    states: dict[Aggregate, dict[str, Any] | None]
    traces: dict[Aggregate, dict[str, Any]]
    status: dict[str, Any]
    depths: dict[str, int]
    books: dict[str, Any]
    refused_type: str
    refusals: int


class Check(Struct, frozen=True):
    """One demand, and every way in which what was seen falls short of it."""

    demand: str
    faults: tuple[str, ...]


def judge(seen: Observed, *, expected: Sequence[Final] = EXPECTED) -> list[Check]:
    """Every demand with its faults; the demo succeeds when no check has any."""
    checks = {
        "every batch, first or repeated, is answered 200 with its count": _answers(seen),
        "each event is stored once, its repetitions counted, none in quarantine": _events(seen),
        "links, consents and product requests end as the domain says": _states(seen, expected),
        "each change is told once, versions without a gap": _versions(seen),
        "only the changes that may be told are told": _types(seen, expected),
        "the last callback of each aggregate carries the final state": _last(seen, expected),
        "every signature fits": [f"{seen.refused} callbacks refused"] if seen.refused else [],
        "what the endpoint refused is tried again under the same webhook-id": _retried(seen),
        "every delivery is delivered and every queue is empty": _rest(seen),
        "the books balance": _books(seen),
    }
    return [Check(demand, tuple(faults)) for demand, faults in checks.items()]


def _answers(seen: Observed) -> Iterator[str]:
    for number, answer in enumerate(seen.answers, 1):
        if answer.status != 200 or answer.body != {"accepted": answer.sent}:  # noqa: PLR2004 - HTTP
            yield f"batch {number} of {answer.sent}: {answer.status} {answer.body}"


def _events(seen: Observed) -> Iterator[str]:
    events = {e["eventId"]: e for trace in seen.traces.values() for e in trace["events"]}
    if len(events) != 10:  # noqa: PLR2004 - the ten documented events
        yield f"{len(events)} events are stored, not 10"
    for event_id, event in sorted(events.items()):
        if event["duplicates"] != REPEATS - 1:
            yield f"{event_id} has {event['duplicates']} duplicates, not {REPEATS - 1}"
    if any(seen.status["quarantine"].values()):
        yield f"in quarantine: {seen.status['quarantine']}"


def _states(seen: Observed, expected: Sequence[Final]) -> Iterator[str]:
    for final in expected:
        for difference in differences(final.state, seen.states[final.aggregate]):
            yield f"{name(final.aggregate)}: {difference}"


def _versions(seen: Observed) -> Iterator[str]:
    for aggregate, trace in seen.traces.items():
        kind, key = aggregate
        changes = [t for t in trace["transitions"] if (t["aggregate"], t["id"]) == (kind, key)]
        changed = sorted(change["version"] for change in changes)
        told = sorted(c.data["version"] for c in _accepted(seen) if c.aggregate == aggregate)
        if changed != list(range(1, len(changed) + 1)):
            yield f"{name(aggregate)}: versions {changed} have a gap"
        if told != changed:
            yield f"{name(aggregate)}: versions {changed} changed, but {told} were told"
    ids = Counter(callback.webhook_id for callback in _accepted(seen))
    yield from (f"{i} was accepted {n} times" for i, n in ids.items() if n > 1)


def _types(seen: Observed, expected: Sequence[Final]) -> Iterator[str]:
    known = {final.aggregate for final in expected}
    strangers = {c.aggregate for c in seen.callbacks} - known
    yield from (f"{name(stranger)} was never spoken of" for stranger in sorted(strangers))
    for final in expected:
        told = Counter(c.type for c in _accepted(seen) if c.aggregate == final.aggregate)
        for kind in final.told:
            if told[kind] != 1:
                yield f"{name(final.aggregate)}: {kind} told {told[kind]} times, not once"
        for kind in told.keys() - {*final.told, *final.may_tell}:
            yield f"{name(final.aggregate)}: {kind} must not be told"


def _last(seen: Observed, expected: Sequence[Final]) -> Iterator[str]:
    for final in expected:
        told = [c for c in _accepted(seen) if c.aggregate == final.aggregate]
        last = max(told, key=lambda c: int(c.data["version"]), default=None)
        demanded = {k: v for k, v in final.state.items() if k not in {"consents", "products"}}
        for difference in differences(demanded, last.data if last else None):
            yield f"{name(final.aggregate)}: {difference}"


def _retried(seen: Observed) -> Iterator[str]:
    tries = [c for c in seen.callbacks if c.type == seen.refused_type]
    if [c.answer for c in tries] != [500] * seen.refusals + [200]:
        yield f"{seen.refused_type} was answered {[c.answer for c in tries]}"
    if len({c.webhook_id for c in tries}) > 1:
        yield f"{seen.refused_type} came under several ids"
    recorded = [
        len(delivery["attempts"])
        for trace in seen.traces.values()
        for delivery in trace["deliveries"]
        if delivery["type"] == seen.refused_type
    ]
    if max(recorded, default=0) != seen.refusals + 1:
        yield f"{recorded} attempts are recorded, not {seen.refusals + 1}"


def _rest(seen: Observed) -> Iterator[str]:
    for state, count in seen.status["deliveries"].items():
        if state != "delivered" and count:
            yield f"{count} deliveries are {state}"
    if seen.status["deliveries"].get("delivered", 0) != len(_accepted(seen)):
        yield f"{len(_accepted(seen))} callbacks came; deliveries: {seen.status['deliveries']}"
    yield from (f"{queue} holds {depth}" for queue, depth in seen.depths.items() if depth)


def _books(seen: Observed) -> Iterator[str]:
    if not seen.books.get("balanced"):
        failed = [check["name"] for check in seen.books.get("checks", []) if not check["ok"]]
        yield f"correio reconcile: {failed or 'no answer'}"


def _accepted(seen: Observed) -> list[Received]:
    return [c for c in seen.callbacks if c.answer == 200]  # noqa: PLR2004 - HTTP


def name(aggregate: Aggregate) -> str:
    """How a person reads the aggregate."""
    return " ".join(aggregate)


def differences(wanted: Any, found: Any, place: str = "") -> Iterable[str]:
    """Where `found` lacks or contradicts what `wanted` says; what it says beyond is ignored."""
    if isinstance(wanted, dict) and isinstance(found, dict):
        for key, value in wanted.items():
            yield from differences(value, found.get(key), f"{place}.{key}" if place else key)
    elif wanted != found:
        yield f"{place or 'state'} is {found!r}, not {wanted!r}"

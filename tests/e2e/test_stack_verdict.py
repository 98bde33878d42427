"""The demo's judge: a flawless observation passes, and every single flaw is noticed."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
from msgspec.structs import replace

from deploy.local.endpoint import Received
from deploy.local.scenario import EXPECTED, FIRST, LINK, REQUEST, SECOND, THIRD, Final
from deploy.local.verdict import Answer, Observed, judge

TOLD = {
    ("link", LINK): ["link.created"],
    ("consent", FIRST): ["consent.error", "consent.revoked", "consent.updated"],
    ("consent", SECOND): ["consent.rejected"],
    ("consent", THIRD): ["consent.deleted"],
    ("product_request", REQUEST): [
        "product_request.received",
        "product.succeeded",
        "product.failed",
        "product_request.completed",
    ],
}


def callbacks_of(final: Final) -> list[Received]:
    kind, key = final.aggregate
    return [
        Received(
            webhook_id=f"{key}-{version}",
            type=told,
            data={"aggregate": kind, "id": key, "version": version, **final.state},
            answer=200,
        )
        for version, told in enumerate(TOLD[final.aggregate], 1)
    ]


def trace_of(final: Final, events: list[int]) -> dict[str, Any]:
    kind, key = final.aggregate
    told = TOLD[final.aggregate]
    return {
        "events": [{"eventId": f"demo-{n:02}", "duplicates": 2} for n in events],
        "transitions": [
            {"aggregate": kind, "id": key, "version": n} for n in range(1, len(told) + 1)
        ],
        "deliveries": [
            {"type": one, "attempts": [{}] * (3 if one == "link.created" else 1)} for one in told
        ],
    }


@pytest.fixture
def seen() -> Observed:
    callbacks = [c for final in EXPECTED for c in callbacks_of(final)]
    refused = replace(callbacks[0], answer=500)
    events = [[1], [2, 3, 9], [4], [5, 10], [6, 7, 8]]
    return Observed(
        answers=[Answer(sent=3, status=200, body={"accepted": 3})],
        callbacks=[refused, refused, *callbacks],
        refused=0,
        states={final.aggregate: copy.deepcopy(final.state) for final in EXPECTED},
        traces={f.aggregate: trace_of(f, n) for f, n in zip(EXPECTED, events, strict=True)},
        status={"quarantine": {}, "deliveries": {"delivered": len(callbacks), "pending": 0}},
        depths={"correio.events": 0},
        books={"balanced": True, "checks": []},
        refused_type="link.created",
        refusals=2,
    )


def failed(seen: Observed) -> list[str]:
    return [check.demand for check in judge(seen) if check.faults]


def test_a_flawless_observation_has_no_faults(seen: Observed) -> None:
    assert failed(seen) == []


def forget(seen: Observed, kind: str) -> None:
    seen.callbacks = [c for c in seen.callbacks if c.type != kind]


def change_last_callback(seen: Observed, **members: Any) -> None:
    last = seen.callbacks[-1]
    seen.callbacks[-1] = replace(last, data={**last.data, **members})


FLAWS: dict[str, Callable[[Observed], Any]] = {
    "a batch is refused": lambda s: s.answers.append(Answer(sent=1, status=401, body={})),
    "a batch is counted wrongly": lambda s: s.answers.append(
        Answer(sent=2, status=200, body={"accepted": 1})
    ),
    "an event is missing": lambda s: s.traces["consent", SECOND]["events"].clear(),
    "a repetition is not counted": lambda s: s.traces["link", LINK]["events"][0].update(
        duplicates=1
    ),
    "something is in quarantine": lambda s: s.status["quarantine"].update(malformed=1),
    "a state is unknown": lambda s: s.states.update({("link", LINK): None}),
    "a status is another": lambda s: s.states["consent", FIRST].update(status="AUTHORISED"),
    "a conflict is raised": lambda s: s.states["consent", THIRD].update(conflict=True),
    "a product is counted twice": lambda s: s.states["product_request", REQUEST]["products"][
        "pf_checking_account"
    ].update(successes=2),
    "a callback is lost": lambda s: forget(s, "product.succeeded"),
    "a callback comes twice": lambda s: s.callbacks.append(s.callbacks[-1]),
    "a version is left out": lambda s: s.traces["consent", FIRST]["transitions"].pop(0),
    "a change is not told": lambda s: s.traces["consent", SECOND]["transitions"].append(
        {"aggregate": "consent", "id": SECOND, "version": 2}
    ),
    "a callback of a forbidden type": lambda s: s.callbacks.append(
        replace(s.callbacks[-1], type="consent.conflict")
    ),
    "a callback of a stranger": lambda s: change_last_callback(s, id="stranger"),
    "the last callback is not final": lambda s: change_last_callback(s, status="PENDING"),
    "a signature does not fit": lambda s: setattr(s, "refused", 1),
    "a failed delivery is not tried again": lambda s: s.callbacks.pop(0),
    "it is tried again under another id": lambda s: s.callbacks.__setitem__(
        0, replace(s.callbacks[0], webhook_id="other")
    ),
    "an attempt is not recorded": lambda s: s.traces["link", LINK]["deliveries"][0].update(
        attempts=[{}]
    ),
    "a delivery is pending": lambda s: s.status["deliveries"].update(pending=1),
    "a delivery is not counted": lambda s: s.status["deliveries"].update(delivered=1),
    "a queue is not empty": lambda s: s.depths.update({"correio.dead": 1}),
    "the books do not balance": lambda s: s.books.update(balanced=False),
}


@pytest.mark.parametrize("flaw", FLAWS)
def test_each_flaw_is_noticed(seen: Observed, flaw: str) -> None:
    FLAWS[flaw](seen)
    assert failed(seen) != []

import pytest

from worker.callbacks import outcomes
from worker.callbacks.outcomes import (
    EndpointGone,
    FailureKind,
    Outcome,
    PermanentFailure,
    RetryableFailure,
    Succeeded,
    judge,
)


def failed(kind: FailureKind, status: int | None = None) -> RetryableFailure:
    return RetryableFailure(kind, "", status=status)


@pytest.mark.parametrize(
    ("status", "name"),
    [
        (100, "malformed"), (199, "malformed"), (200, "succeeded"), (204, "succeeded"),
        (299, "succeeded"), (300, "redirect"), (301, "redirect"), (307, "redirect"),
        (308, "redirect"), (399, "redirect"), (400, "rejected"), (401, "rejected"),
        (404, "rejected"), (408, "rejected"), (409, "rejected"), (410, "gone"),
        (411, "rejected"), (422, "rejected"), (425, "rejected"), (429, "throttled"),
        (499, "rejected"), (500, "server_error"), (503, "server_error"), (599, "server_error"),
        (600, "malformed"), (999, "malformed"),
    ],
)  # fmt: skip
def test_what_each_status_means(status: int, name: str) -> None:
    outcome = judge(status, answer=b"why", retry_after=3.0)
    assert outcomes.name_of(outcome) == name
    assert outcomes.status_of(outcome) == status
    if isinstance(outcome, RetryableFailure):
        assert (outcome.answer, outcome.retry_after) == (b"why", 3.0)


@pytest.mark.parametrize(
    ("outcome", "healthy"),
    [
        (Succeeded(200), True),
        (EndpointGone(), None),
        (PermanentFailure(FailureKind.REFUSED_ADDRESS, ""), None),
        (failed(FailureKind.INTERNAL), None),
        (failed(FailureKind.REJECTED, 400), None),
        (failed(FailureKind.REJECTED, 404), None),
        (failed(FailureKind.REJECTED, 408), False),
        (failed(FailureKind.REJECTED, 425), False),
        (failed(FailureKind.THROTTLED, 429), False),
        (failed(FailureKind.SERVER_ERROR, 500), False),
        (failed(FailureKind.REDIRECT, 302), False),
        (failed(FailureKind.TIMEOUT), False),
        (failed(FailureKind.DNS), False),
        (failed(FailureKind.OVERSIZED, 200), False),
    ],
)
def test_what_each_outcome_says_of_the_endpoints_health(
    outcome: Outcome,
    healthy: bool | None,  # noqa: FBT001 - a column of the table
) -> None:
    assert outcomes.is_healthy(outcome) is healthy


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_these_ask_to_slow_down(status: int) -> None:
    assert outcomes.asks_to_slow(judge(status))


@pytest.mark.parametrize("status", [200, 302, 400, 410, 500, 501])
def test_these_do_not(status: int) -> None:
    assert not outcomes.asks_to_slow(judge(status))


def test_every_failure_has_a_name_of_its_own() -> None:
    names = {outcomes.name_of(failed(kind)) for kind in FailureKind}
    assert len(names) == len(FailureKind)

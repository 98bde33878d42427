"""The demo's report, as tables on a terminal."""

from collections.abc import Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from deploy.local.verdict import Aggregate, Check, Observed, name


def report(console: Console, seen: Observed, checks: Sequence[Check]) -> None:
    """Print what became of each event, aggregate, callback and queue, and the verdict."""
    console.print(_events(seen), _states(seen), _callbacks(seen), _queues(seen))
    for check in checks:
        mark = "[red]FAILED[/red]" if check.faults else "[green]ok[/green]"
        console.print(f"{mark:>6}  {check.demand}")
        for fault in check.faults:
            console.print(f"        {fault}", markup=False)


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _events(seen: Observed) -> Table:
    table = _table("Events", "event", "name", "time", "label", "duplicates")
    events = {e["eventId"]: e for trace in seen.traces.values() for e in trace["events"]}
    for event_id in sorted(events):
        event = events[event_id]
        values = (event_id, event["eventName"], event["eventTime"], event["label"])
        table.add_row(*map(str, values), str(event["duplicates"]))
    return table


def _states(seen: Observed) -> Table:
    table = _table("State", "aggregate", "status", "version", "details")
    for aggregate, state in seen.states.items():
        if state is None:
            table.add_row(name(aggregate), "unknown", "", "")
            continue
        details = _details(aggregate, state)
        table.add_row(name(aggregate), str(state["status"]), str(state.get("version")), details)
    return table


def _details(aggregate: Aggregate, state: dict[str, Any]) -> str:
    match aggregate[0]:
        case "link":
            return ", ".join(state["consents"])
        case "consent":
            granted = ", ".join(state["permissionsGranted"] or ["nothing"])
            return f"granted {granted}" + (", conflict" if state["conflict"] else "")
        case _:
            return ", ".join(f"{k} {v['status']}" for k, v in state["products"].items())


def _callbacks(seen: Observed) -> Table:
    table = _table("Callbacks", "aggregate", "version", "type", "status told", "attempts")
    attempts: dict[str, list[str]] = {}
    for callback in seen.callbacks:
        attempts.setdefault(callback.webhook_id, []).append(str(callback.answer))
    last = {callback.webhook_id: callback for callback in seen.callbacks}
    for one in sorted(last.values(), key=lambda c: (c.aggregate, c.data["version"])):
        answers = ", ".join(attempts[one.webhook_id])
        version, status = str(one.data["version"]), str(one.data["status"])
        table.add_row(name(one.aggregate), version, one.type, status, answers)
    return table


def _queues(seen: Observed) -> Table:
    table = _table("Queues", "queue", "messages")
    for queue, depth in sorted(seen.depths.items()):
        table.add_row(queue, str(depth))
    return table

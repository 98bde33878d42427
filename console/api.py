"""What the page asks and does, as JSON: the same functions that the command line calls."""

from collections.abc import Awaitable, Callable
from typing import Annotated, Any, Literal

import msgspec
import orjson
from aiohttp import web
from msgspec import Meta, Struct

from console.context import Context, iso
from console.deliveries import (
    STATES,
    cancel_deliveries,
    one_delivery,
    replay_deliveries,
    row_answer,
)
from console.endpoints import endpoints_answer, probe, set_endpoint
from console.login import Session
from console.look import trace_answer
from console.quarantine import (
    discard_entries,
    entry_answer,
    open_entries,
    quarantined,
    replay_entries,
)
from console.sampler import Sampler
from shared.store.lists import DeliveryFilter
from shared.store.rows import EndpointStatus

SESSION: web.RequestKey[Session | None] = web.RequestKey("session", object)  # type: ignore[arg-type]  # no class stands for an optional

PAGE = 100
"""Rows of a list."""

COUNTED = 10_000
"""What a list is cut from is counted up to here; beyond it there are just more."""

POINTS = 720
"""Points of a chart at most; a longer history is thinned out."""

Text = Annotated[str, Meta(max_length=200)]
Ids = Annotated[tuple[Text, ...], Meta(max_length=1_000)]

WAITING = ("pending", "retrying", "held", "exhausted")


class Login(Struct, forbid_unknown_fields=True):
    """A login."""

    token: Annotated[str, Meta(max_length=1_000)]


class EntriesMeant(Struct, forbid_unknown_fields=True, rename="camel"):
    """Quarantine entries: by id, or all open ones of a reason."""

    ids: Ids = ()
    reason: Text = ""
    dry_run: bool = True

    def __post_init__(self) -> None:
        if bool(self.ids) == bool(self.reason):
            raise ValueError("name entries, or a reason")


class DeliveriesMeant(Struct, forbid_unknown_fields=True, rename="camel"):
    """Deliveries: by id, by the replay they belong to, or by filter."""

    ids: Ids = ()
    replay: Text = ""
    state: Literal["", "pending", "retrying", "held", "exhausted"] = ""
    endpoint: Text = ""
    type: Text = ""
    aggregate: Text = ""
    error: Text = ""
    include_delivered: bool = False
    rate: Annotated[float, Meta(gt=0, le=10_000)] = 50.0
    dry_run: bool = True

    @property
    def restricted(self) -> bool:
        """Whether a filter is given."""
        return any((self.endpoint, self.type, self.aggregate, self.error))

    def filter(self, states: tuple[str, ...]) -> DeliveryFilter:
        """The filter over these states."""
        return DeliveryFilter(
            states=states, endpoint=self.endpoint, type=self.type, aggregate_id=self.aggregate,
            error=self.error,
        )  # fmt: skip


class Pause(Struct, forbid_unknown_fields=True):
    """Why an endpoint is paused."""

    reason: Text = "paused by an operator"


class Api:
    """The handlers."""

    def __init__(self, sampler: Sampler, context: Callable[[str], Context]) -> None:
        self._sampler = sampler
        self._context = context

    def add_to(self, router: web.UrlDispatcher) -> None:
        """Add every route."""
        for path, handler in (
            ("overview", self.overview),
            ("history", self.history),
            ("trace", self.trace),
            ("quarantine", self.quarantine),
            ("quarantine/{id}", self.entry),
            ("deliveries", self.deliveries),
            ("deliveries/{id}", self.delivery),
            ("replays/{id}", self.replay),
            ("endpoints", self.endpoints),
            ("audit", self.audit),
        ):
            router.add_get(f"/api/{path}", self._reading(handler))
        for path, change in (
            ("quarantine/replay", self.replay_entries),
            ("quarantine/discard", self.discard_entries),
            ("deliveries/replay", self.replay_deliveries),
            ("deliveries/cancel", self.cancel_deliveries),
            ("endpoints/{id}/pause", self.pause),
            ("endpoints/{id}/resume", self.resume),
            ("endpoints/{id}/test", self.test),
        ):
            router.add_post(f"/api/{path}", self._changing(change))

    def _reading(
        self, handler: Callable[[web.Request, Context], Awaitable[Any]]
    ) -> Callable[[web.Request], Awaitable[web.Response]]:
        async def answer(request: web.Request) -> web.Response:
            session = request[SESSION]
            found = await handler(request, self._context(session.operator.name if session else ""))
            if found is None:
                return refuse(404, "unknown")
            response = web.Response(body=_json(found), content_type="application/json")
            response.enable_compression()
            return response

        return answer

    def _changing(
        self, handler: Callable[[web.Request, Context], Awaitable[Any]]
    ) -> Callable[[web.Request], Awaitable[web.Response]]:
        read = self._reading(handler)

        async def answer(request: web.Request) -> web.Response:
            try:
                return await read(request)
            finally:
                self._sampler.recount()

        return answer

    async def overview(self, _request: web.Request, _context: Context) -> Any:
        """The figures of now, what is stuck, and the newest point of the charts."""
        sampler = self._sampler
        return {
            "at": sampler.at,
            "status": sampler.status,
            "stuck": sampler.stuck,
            "point": sampler.points[-1] if sampler.points else None,
        }

    async def history(self, _request: web.Request, _context: Context) -> Any:
        """The points of the charts, at most `POINTS` of them."""
        points = list(self._sampler.points)
        step = max(1, -(-len(points) // POINTS))
        return {"points": points[::-1][::step][::-1]}

    async def trace(self, request: web.Request, context: Context) -> Any:
        """Everything about one id; unknown when nothing is stored about it."""
        found = await trace_answer(context, request.query.get("id", "").strip())
        return found if found["events"] or found["transitions"] else None

    async def quarantine(self, request: web.Request, context: Context) -> Any:
        """Entries by reason and status, newest first, and how many there are."""
        reason, status = request.query.get("reason", ""), request.query.get("status", "open")
        async with context.queries() as queries:
            count = await queries.count_quarantine(
                reason=reason, status=status, at_most=COUNTED + 1
            )
            rows = await queries.quarantine(reason=reason, status=status, limit=PAGE)
        return {
            "count": min(count, COUNTED),
            "more": count > COUNTED,
            "entries": [entry_answer(one) for one in rows],
        }

    async def entry(self, request: web.Request, context: Context) -> Any:
        """One entry with its body, tax ids masked unless the operator may see them and asks to.

        Whoever looks at it unmasked is recorded.
        """
        unmask = request.query.get("unmask") == "1"
        session = request[SESSION]
        if unmask and not (session and session.operator.may_unmask):
            raise web.HTTPForbidden(text="this operator may not see what is masked")
        return await quarantined(context, request.match_info["id"], body=True, unmask=unmask)

    async def replay_entries(self, request: web.Request, context: Context) -> Any:
        """Send entries through the events worker once more.

        A dry run names them, so that the page can replay a few at a time and be stopped between.
        """
        meant = msgspec.json.decode(await request.read(), type=EntriesMeant)
        if meant.dry_run:
            found = await open_entries(context, meant.ids, meant.reason)
            return {"count": len(found), "dryRun": True, "ids": found}
        count = await replay_entries(context, meant.ids, meant.reason, really=True)
        return {"count": count, "dryRun": False}

    async def discard_entries(self, request: web.Request, context: Context) -> Any:
        """Close entries for good."""
        meant = msgspec.json.decode(await request.read(), type=EntriesMeant)
        count = await discard_entries(context, meant.ids, meant.reason, really=not meant.dry_run)
        return {"count": count, "dryRun": meant.dry_run}

    async def deliveries(self, request: web.Request, context: Context) -> Any:
        """Deliveries by filter, newest first, and how many there are."""
        asked = request.query
        state = asked.get("state", "")
        if state and state not in STATES:
            raise msgspec.ValidationError(f"state must be one of {', '.join(STATES)}")
        wanted = DeliveryFilter(
            states=(state,) if state else (),
            endpoint=asked.get("endpoint", ""),
            type=asked.get("type", ""),
            aggregate_id=asked.get("aggregate", ""),
            error=asked.get("error", ""),
            replay=asked.get("replay", ""),
        )
        async with context.queries() as queries:
            count = await queries.count_deliveries(wanted, at_most=COUNTED + 1)
            rows = await queries.deliveries(wanted, limit=PAGE)
        return {
            "count": min(count, COUNTED),
            "more": count > COUNTED,
            "deliveries": [row_answer(one) for one in rows],
        }

    async def delivery(self, request: web.Request, context: Context) -> Any:
        """One delivery with its attempts."""
        return await one_delivery(context, request.match_info["id"])

    async def replay(self, request: web.Request, context: Context) -> Any:
        """How far a replay of deliveries has come."""
        async with context.queries() as queries:
            states = await queries.replay_progress(request.match_info["id"])
        waiting = states.get("pending", 0) + states.get("retrying", 0)
        return {"states": states, "total": sum(states.values()), "waiting": waiting}

    async def replay_deliveries(self, request: web.Request, context: Context) -> Any:
        """Give deliveries a new round of attempts."""
        meant = msgspec.json.decode(await request.read(), type=DeliveriesMeant)
        states = ("exhausted", "delivered") if meant.include_delivered else ("exhausted",)
        return await replay_deliveries(
            context, meant.filter(states), ids=meant.ids, rate=meant.rate, really=not meant.dry_run
        )

    async def cancel_deliveries(self, request: web.Request, context: Context) -> Any:
        """Cancel deliveries, or stop a replay."""
        meant = msgspec.json.decode(await request.read(), type=DeliveriesMeant)
        if sum(map(bool, (meant.ids, meant.replay, meant.restricted))) != 1:
            raise msgspec.ValidationError("name deliveries, or a replay, or give filters")
        states = (meant.state,) if meant.state else WAITING
        count = await cancel_deliveries(
            context, meant.filter(states), ids=meant.ids, replay_id=meant.replay,
            really=not meant.dry_run,
        )  # fmt: skip
        return {"count": count, "dryRun": meant.dry_run}

    async def endpoints(self, _request: web.Request, context: Context) -> Any:
        """Every endpoint."""
        return {"endpoints": await endpoints_answer(context)}

    async def pause(self, request: web.Request, context: Context) -> Any:
        """Hold an endpoint's deliveries."""
        wanted = msgspec.json.decode(await request.read() or b"{}", type=Pause)
        return await self._set(request, context, EndpointStatus.PAUSED, wanted.reason)

    async def resume(self, request: web.Request, context: Context) -> Any:
        """Deliver again."""
        return await self._set(request, context, EndpointStatus.ENABLED, "")

    async def test(self, request: web.Request, context: Context) -> Any:
        """Make one test call."""
        name = request.match_info["id"]
        return await probe(name) if _configured(context, name) else None

    async def _set(
        self, request: web.Request, context: Context, status: EndpointStatus, reason: str
    ) -> Any:
        name = request.match_info["id"]
        if not _configured(context, name):
            return None
        await set_endpoint(context, name, status, reason)
        return {"id": name, "status": status.value}

    async def audit(self, _request: web.Request, context: Context) -> Any:
        """Who did what, newest first, and whether there is more."""
        async with context.queries() as queries:
            rows = await queries.notes(limit=PAGE + 1)
        return {
            "more": len(rows) > PAGE,
            "notes": [
                {"at": iso(one.at), "actor": one.actor, "action": one.action,
                 "target": one.target, "detail": one.detail}
                for one in rows[:PAGE]
            ],
        }  # fmt: skip


def _configured(context: Context, endpoint: str) -> bool:
    return endpoint in {one.id for one in context.config.endpoint}


def _json(answer: Any) -> bytes:
    return orjson.dumps(answer, default=msgspec.to_builtins)


def refuse(status: int, detail: str) -> web.Response:
    """A problem as RFC 9457 has it."""
    return web.Response(
        status=status,
        body=orjson.dumps({"type": "about:blank", "status": status, "detail": detail}),
        content_type="application/problem+json",
    )

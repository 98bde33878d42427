"""The simulated part of the fault catalogue: how each fault is injected and what must hold."""

from tests.chaos.catalogue import Layer, Row

DURABLE = "an event that got its 200 is applied or in quarantine"
ONCE = "each event has one effect"
TOLD = "each notification arrives, with one body under one webhook-id"

TOLD_OF: dict[str, tuple[str, str]] = {
    # on the way to the broker and back
    "publish cut before it arrives": ("the connection breaks, the frames are lost", DURABLE),
    "publish cut in the middle": ("it breaks after some messages of a batch", DURABLE),
    "publish cut before its confirm": ("it breaks when all are queued", ONCE),
    "confirm delayed": ("up to 4 s, beyond the receiver's deadline", ONCE),
    "confirm dropped": ("it never comes", ONCE),
    "nack": ("the broker refuses single messages of a batch", DURABLE),
    "message twice": ("a delay queue dead-letters at least once", TOLD),
    "message out of order": ("queued or given back at any place", "the state is the model's fold"),
    "delivery held back": ("up to 0.2 s, so that batches come in parts", ONCE),
    "connection half open": ("the client hears of a break up to 15 s late", DURABLE),
    "connect refused": ("single attempts to connect fail", "all reconnect"),
    "cut while a question waits": ("as it opens a channel or consumes", "all reconnect"),
    # store, spool and disk
    "store unavailable": ("single calls fail before they are done", "no retry is spent"),
    "store answer lost": ("a call is done, then fails: also a commit", ONCE + "; " + TOLD),
    "store conflict": ("another writer came first", ONCE),
    "store slow": ("calls take up to 1 s", "no lease is overtaken"),
    "store write fails": ("a write or sync of its file fails within SQLite", ONCE),
    "spool disk full": ("single commits fail for want of room", "503, or the broker has it"),
    "spool disk failing": ("single calls fail with an I/O error", DURABLE),
    "spool write fails": ("a write or sync of its file fails within SQLite", DURABLE),
    "spool misread": ("a read says that the file is damaged, and lies", DURABLE),
    "spool slow": ("calls take up to 4 s", "503 after 3 s; " + DURABLE),
    # source and endpoints
    "request cut": ("the source leaves before its answer", "the batch may count all the same"),
    "answer to the source lost": ("the source sends the batch again", ONCE),
    "source sends again": ("though it got its 200, some seconds later", ONCE),
    "endpoint refuses connections": ("no connection, or cut before the answer", TOLD),
    "endpoint answers an error": ("500, 502, 503, 404, 400 or a redirect", TOLD),
    "endpoint throttles": ("429 with Retry-After", TOLD),
    "endpoint hangs": ("beyond the time of an attempt", TOLD),
    "endpoint is slow": ("up to 4 s, some beyond the time of an attempt", TOLD),
    "endpoint's answer is lost": ("it took the call, the connection breaks", TOLD),
    "endpoint's answer breaks off": ("200, and half of a body", TOLD),
    # at moments of their own
    "kill": ("a process ends at once, its open transaction is lost", DURABLE + "; " + TOLD),
    "kill at a step": ("before one chosen step out of its next 400", DURABLE + "; " + TOLD),
    "power loss": (
        "all processes end; what SQLite has not synced is lost in part, torn at sectors", DURABLE,
    ),
    "stop": ("SIGTERM", "it leaves in good order and nothing waits for it"),
    "stop while the store is away": ("SIGTERM to all workers in an outage", DURABLE),
    "freeze process": ("it stands still up to 12 s, beyond its leases", TOLD),
    "clock jumps": ("a process's wall clock, up to a minute either way", TOLD),
    "broker restarts": ("all connections end, none is taken for up to 5 s", DURABLE),
    "broker freezes": ("connections stand, nothing is read or written for up to 10 s", DURABLE),
    "broker alarm": ("publishers are not read for up to 10 s, consumers go on", DURABLE),
    "connections cut": ("about half of all", ONCE),
    "consumer cancelled": ("the broker ends consumers and says so", "consuming is taken up again"),
    "consumer lost silently": ("the broker ends consumers without a word", "likewise, within 30 s"),
    "binding lost": ("an exchange routes to its queue no more", DURABLE + "; it is put back"),
    "callback messages lost": ("as by a loss of the broker's data", TOLD),
    "store away": ("every call fails for up to 5 s", "work pauses; no retry is spent"),
    "store full": ("every call fails for want of room for up to 5 s", "likewise"),
    "store damaged": ("every call says so, until it is mended after up to 5 s", "likewise"),
    "disk full": ("the spool's disk has no room for up to 5 s", "503, or the broker has it"),
    "endpoint gone": ("410, which disables it until an operator resumes it", TOLD),
    "endpoint down": ("no connection for up to 5 s", TOLD),
    "operator replays quarantine": ("all of it, by the console's own command", ONCE),
    "operator replays deliveries": ("all that are settled, in the midst of it", TOLD),
    "operator cancels deliveries": ("all that wait for an endpoint", "the rest arrives"),
    "operator pauses an endpoint": ("and resumes it in the end", TOLD),
}  # fmt: skip
"""Fault → how it is injected, and what must hold of it besides all that the oracle asks for."""


def name_of(fault: str) -> str:
    """The name of a fault's row."""
    return "sim-" + fault.replace("'", "").replace(" ", "-")


ROWS: tuple[Row, ...] = tuple(
    Row(name_of(fault), Layer.SIMULATED, fault, how, holds, stores=("sqlite",))
    for fault, (how, holds) in TOLD_OF.items()
)

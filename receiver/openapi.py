"""The OpenAPI document of what the receiver does."""

from typing import Any, Final

from receiver import signature
from receiver.problems import ALLOWED_METHODS as WEBHOOK_METHODS
from receiver.problems import MEDIA_TYPE, Reason, Refusal
from shared.config import ReceiverConfig

PATH: Final = "/openapi.json"
WEBHOOKS: Final = "/v1/webhooks/"
ALLOWED_METHODS: Final = "GET, HEAD, OPTIONS"

_NEVER_SEEN = (Reason.METHOD, Reason.FAULT, Reason.SENDER_LEFT)
_REFUSED_POST = tuple(reason for reason in Reason if reason not in _NEVER_SEEN)
_REFUSED_GET = (Reason.UNKNOWN_SOURCE, Reason.NOT_FOUND, Reason.ADDRESS, Reason.MALFORMED_REQUEST)
_RETRY = {
    "Retry-After": {
        "description": "Seconds to wait before the same batch is sent again.",
        "schema": {"type": "integer", "minimum": 1},
    }
}


def document(config: ReceiverConfig) -> dict[str, Any]:
    """The document, with the limits as they are configured."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Correio receiver",
            "version": "1",
            "description": "Takes signed batches of events. A 200 means that every event of the "
            "batch is durable; after any other answer the batch should be sent again.",
        },
        "paths": {
            WEBHOOKS + "{source}": {
                "parameters": [{"$ref": "#/components/parameters/source"}],
                "post": _post(config),
                "get": _harmless("get", "Connectivity test; changes nothing."),
                "head": _harmless("head", "Connectivity test; changes nothing."),
                "options": _options(WEBHOOK_METHODS),
            },
            PATH: {
                "get": {
                    "operationId": "describe",
                    "summary": "This document.",
                    "responses": {
                        "200": {
                            "description": "The document.",
                            "content": {"application/json": {"schema": {"type": "object"}}},
                        },
                        **_refusals((Reason.MALFORMED_REQUEST,)),
                    },
                },
            },
        },
        "components": {
            "schemas": {"Accepted": _ACCEPTED, "Problem": _PROBLEM},
            "parameters": {"source": _SOURCE},
        },
    }


def _post(config: ReceiverConfig) -> dict[str, Any]:
    return {
        "operationId": "deliver",
        "summary": "Deliver an array of events, or one event.",
        "description": (
            f"At most {config.max_events} events and {config.max_body_bytes} bytes, also when "
            f"decompressed, nested at most {config.max_depth} levels deep. An empty body is "
            "accepted without a signature. "
            "Elements are not judged here: whatever is wrong with one of them harms no other."
        ),
        "parameters": [
            {
                "name": signature.HEADER,
                "in": "header",
                "description": "Lower-case hex HMAC-SHA256 of the body's bytes; an empty body "
                "and a source without secrets need none.",
                "schema": {"type": "string"},
            }
        ],
        "requestBody": {
            "content": {"application/json": {"schema": {"type": ["array", "object"]}}},
        },
        "responses": {"200": _ACCEPTED_ANSWER, **_refusals(_REFUSED_POST)},
    }


def _harmless(method: str, summary: str) -> dict[str, Any]:
    answer = _ACCEPTED_ANSWER if method == "get" else {"description": "Reachable."}
    return {
        "operationId": f"{method}Source",
        "summary": summary,
        "responses": {"200": answer, **_refusals(_REFUSED_GET, bodies=method == "get")},
    }


def _options(allowed: str) -> dict[str, Any]:
    return {
        "operationId": "optionsSource",
        "summary": "Tells the allowed methods.",
        "responses": {
            "204": {
                "description": "Nothing but headers.",
                "headers": {
                    "Allow": {
                        "description": f"`{allowed}`",
                        "required": True,
                        "schema": {"type": "string"},
                    }
                },
            },
            **_refusals((Reason.NOT_FOUND, Reason.MALFORMED_REQUEST)),
        },
    }


def _refusals(reasons: tuple[Reason, ...], *, bodies: bool = True) -> dict[str, Any]:
    answers: dict[str, Any] = {}
    for reason in reasons:
        refusal = Refusal(reason, "")
        answer = answers.setdefault(str(refusal.status), {"description": ""})
        named = f"{answer['description']}, `{reason.value}`".lstrip(", ")
        answer["description"] = named
        if bodies:
            answer["content"] = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
        if "Retry-After" in refusal.headers:
            answer["headers"] = _RETRY
    return answers


_ACCEPTED: Final = {
    "type": "object",
    "required": ["accepted"],
    "properties": {
        "accepted": {"type": "integer", "minimum": 0, "description": "Events made durable."}
    },
}
_ACCEPTED_ANSWER: Final = {
    "description": "Every event of the batch is durable.",
    "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Accepted"}}},
}
_PROBLEM: Final = {
    "type": "object",
    "description": "RFC 9457",
    "required": ["type", "title", "status", "detail"],
    "properties": {
        "type": {"type": "string", "enum": [Refusal(r, "").type for r in Reason]},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
    },
}
_SOURCE: Final = {
    "name": "source",
    "in": "path",
    "required": True,
    "description": "Name of a configured source.",
    "schema": {"type": "string", "pattern": "^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"},
}

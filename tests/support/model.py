"""What the domain demands, said a second time and apart from the code under test.

Deliberately naive: plain dictionaries, every rule spelled out as a condition, everything
computed anew from the whole set of events. Shares no line with `shared.domain`.
"""

from collections.abc import Iterable
from typing import Any

GRAVITY = ["authorised", "error", "rejected", "expired", "revoked", "deleted_by_user"]
ENDED = ("REJECTED", "EXPIRED", "REVOKED")


def consent(events: Iterable[tuple[dict[str, Any], str]]) -> dict[str, Any]:
    """Final state of one consent from its events, each with the digest of its content."""

    def standing(entry: tuple[dict[str, Any], str]) -> tuple[str, int, str, str]:
        made, digest = entry
        change = made["eventName"].removeprefix("consent_")
        return made["eventTime"], GRAVITY.index(change), made["eventId"], digest

    status, conflict, granted, expiry = None, False, [], None
    fields: dict[str, Any] = {}
    for made, _ in sorted(events, key=standing):
        said = made["payload"]["consents"]
        change = made["eventName"].removeprefix("consent_").upper()
        if change == "DELETED_BY_USER":
            status, granted, expiry = "DELETED_BY_USER", [], None
        elif status == "DELETED_BY_USER":
            conflict = conflict or change == "AUTHORISED"
        elif change == "AUTHORISED":
            conflict = conflict or status in ENDED
            status, granted, expiry = change, said["permissionsGranted"], said["expireAt"]
        elif change == "ERROR":
            conflict = conflict or status in ("AUTHORISED", *ENDED)
            status = status if status in ENDED else change
        elif status not in ENDED:
            status = change
        described = {
            "linkId": made["payload"]["linkId"],
            "institutionCode": said["institutionCode"],
            "externalTrackId": said["externalTrackId"],
            "permissionsApply": said["permissionsApply"],
        }
        fields |= {name: value for name, value in described.items() if value}
    if status == "DELETED_BY_USER":  # whoever asks for deletion leaves nothing but ids
        fields = {"linkId": fields["linkId"], "permissionsApply": []}
    return {
        "status": status,
        "conflict": conflict,
        "permissionsGranted": granted,
        "expireAt": expiry,
        **fields,
    }


def product_request(events: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Final state of one product request from its events (no two orders of one time)."""
    events = list(events)
    orders = [one for one in events if one["eventName"] == "product_request_received"]
    orders.sort(key=lambda one: one["eventTime"])
    listed = orders[-1]["payload"]["requestBody"]["products"] if orders else []
    good = [one["payload"]["product"] for one in events if one["eventName"].endswith("_success")]
    bad = [one["payload"]["product"] for one in events if one["eventName"].endswith("_failed")]
    products = {}
    for name in {*listed, *good, *bad}:
        status = "SUCCEEDED" if name in good else "FAILED" if name in bad else "PENDING"
        products[name] = (status, good.count(name), bad.count(name))
    if not orders:
        whole = "PLACEHOLDER"
    elif all(products[name][0] != "PENDING" for name in listed):
        whole = "COMPLETE"
    else:
        whole = "PENDING"
    return {"status": whole, "products": products}


def link(events: Iterable[dict[str, Any]], link_id: str) -> dict[str, Any] | None:
    """Final state of one link from all events of its application; None if none names it."""
    created, consents, named = False, set(), False
    for made in events:
        payload = made["payload"]
        where = payload.get("requestBody", payload)
        if where.get("linkId") != link_id:
            continue
        named = True
        created = created or made["eventName"] == "link_created"
        if "consents" in payload:
            consents.add(payload["consents"]["consentId"])
    if not named:
        return None
    return {"status": "CREATED" if created else "PLACEHOLDER", "consents": sorted(consents)}

"""Which notices a change of state calls for, and what each of them says.

Every notice is one version of its aggregate. A change that shows in no notice's data calls for
none; a change that shows calls for at least one, so the last notice carries the final state.
"""

from collections.abc import Iterator
from typing import Any, assert_never

from msgspec import Struct

from shared.domain.aggregates import State, status_of
from shared.domain.consent import ConsentState, ConsentStatus
from shared.domain.keys import AggregateKey
from shared.domain.link import LinkState
from shared.domain.product_request import (
    ProductRequestState,
    ProductStatus,
    RequestStatus,
    bare,
)

TYPES: tuple[str, ...] = (
    "link.created",
    "consent.authorised",
    "consent.error",
    "consent.rejected",
    "consent.expired",
    "consent.revoked",
    "consent.deleted",
    "consent.updated",
    "consent.conflict",
    "product.succeeded",
    "product.failed",
    "product_request.received",
    "product_request.completed",
)

_CONSENT_TYPE = {
    ConsentStatus.AUTHORISED: "consent.authorised",
    ConsentStatus.ERROR: "consent.error",
    ConsentStatus.REJECTED: "consent.rejected",
    ConsentStatus.EXPIRED: "consent.expired",
    ConsentStatus.REVOKED: "consent.revoked",
    ConsentStatus.DELETED_BY_USER: "consent.deleted",
}

_DONE = (RequestStatus.COMPLETE, RequestStatus.SETTLED)


class Notice(Struct, frozen=True):
    """One thing to tell: its type, and what beyond the common fields its data says."""

    type: str
    extra: dict[str, Any] = {}


def notices(before: State, after: State) -> list[Notice]:
    """The notices that the change from `before` to `after` calls for, in order."""
    match before, after:
        case ConsentState(), ConsentState():
            return list(_consent(before, after))
        case LinkState(), LinkState():
            return [Notice("link.created")] if after.created and not before.created else []
        case ProductRequestState(), ProductRequestState():
            return list(_product_request(before, after))
        case _:
            raise TypeError("an aggregate does not change its kind")


def _consent(before: ConsentState, after: ConsentState) -> Iterator[Notice]:
    raised = set(after.conflicts) - set(after.cleared) - set(before.conflicts)
    if after.status is not None and after.status is not before.status:
        yield Notice(_CONSENT_TYPE[after.status])
    elif _description(before) != _description(after) or (before.conflict and not after.conflict):
        yield Notice("consent.updated")
    if raised or (after.conflict and not before.conflict):
        yield Notice("consent.conflict")


def _product_request(before: ProductRequestState, after: ProductRequestState) -> Iterator[Notice]:
    known = bare(before).order if after.erased else before.order  # what is taken away is no news
    if after.order is not None and after.order != known:
        yield Notice("product_request.received")
    for name, outcome in after.products.items():
        if outcome.status is not before.product(name).status:
            verb = "succeeded" if outcome.status is ProductStatus.SUCCEEDED else "failed"
            yield Notice(f"product.{verb}", {"product": name})
    if after.status in _DONE and before.status not in _DONE:
        yield Notice("product_request.completed")


def data(key: AggregateKey, *, version: int, previous: str, state: State) -> dict[str, Any]:
    """The ``data`` member of a callback body: ids and statuses, never a tax id.

    Args:
        key: the aggregate told of.
        version: counts up per aggregate without a gap.
        previous: status before the change, empty if there was none.
        state: the aggregate after the change.
    """
    return {
        "aggregate": key.kind,
        "id": key.id,
        "partnerAppId": key.partner_app_id,
        "version": version,
        "status": status_of(state),
        "previousStatus": previous or None,
        **_facts(state),
    }


def _facts(state: State) -> dict[str, Any]:
    match state:
        case ConsentState():
            return {**_description(state), "conflict": state.conflict}
        case LinkState():
            return {}
        case ProductRequestState():
            order = state.order
            return {
                "linkId": (order.link_id if order else "") or None,
                "institutionCode": (order.institution_code if order else "") or None,
                "consentIds": list(order.consent_ids) if order else [],
                "products": {name: one.status.value for name, one in state.products.items()},
            }
        case _ as never:
            assert_never(never)


def _description(state: ConsentState) -> dict[str, Any]:
    """What is told of a consent beside its status and its conflict."""
    return {
        "linkId": state.link_id or None,
        "institutionCode": state.institution_code or None,
        "externalTrackId": state.external_track_id or None,
        "permissionsApply": list(state.permissions_apply),
        "permissionsGranted": list(state.permissions_granted),
        "expireAt": state.expire_at,
    }

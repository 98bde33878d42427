"""What an erasure takes out of the changes that are about to be written, and adds to them.

Whoever changes aggregates hands his changes over before he writes them: what they say of an erased
aggregate loses all that is personal, and an aggregate that has just become erased is named in
`Changes.erased`, upon which the store takes away what it holds of it, in the same transaction.
"""

from collections.abc import Iterable, Mapping

from msgspec.structs import replace

from shared.domain import aggregates
from shared.domain.aggregates import is_erased
from shared.domain.keys import AggregateKey, AggregateKind
from shared.domain.link import LinkState
from shared.domain.private import BLANK, bare_data, join_data
from shared.domain.product_request import OrderFact, consents_named
from shared.store.rows import Aggregate, Changes, Erased, NewEvent, NewTransition, Why


def strip(
    changes: Changes, loaded: Mapping[AggregateKey, Aggregate], *, now: int, why: Why
) -> None:
    """Take what is personal of erased aggregates out of `changes`.

    Args:
        changes: all that one transaction writes.
        loaded: its aggregates as they were locked.
        now: Unix milliseconds.
        why: what erases those that were not erased before.
    """
    gone = {one.id: one.key for one in changes.aggregates if is_erased(one.state)}
    if not gone:
        return
    for number, key in gone.items():
        if not is_erased(loaded[key].state):
            tax_ids = _tax_ids(changes.events, number)
            changes.erased.append(Erased(number, key, why=why, at=now, tax_ids=tax_ids))
    changes.events = [
        replace(one, body=b"", owners=(), tax_ids=()) if gone.keys() & set(one.owners) else one
        for one in changes.events
    ]
    changes.history = [
        replace(one, fact=aggregates.bare_fact(one.fact)) if one.aggregate_id in gone else one
        for one in changes.history
    ]
    changes.transitions = [
        _bare(one, gone[one.aggregate_id]) if one.aggregate_id in gone else one
        for one in changes.transitions
    ]


def _tax_ids(events: Iterable[NewEvent], aggregate_id: int) -> tuple[str, ...]:
    found = (tax_id for one in events if aggregate_id in one.owners for tax_id in one.tax_ids)
    return tuple(dict.fromkeys(found))


def _bare(one: NewTransition, key: AggregateKey) -> NewTransition:
    if not one.private:  # the institution stands in clear where nothing else is personal
        return replace(one, data=bare_data(one.data))
    return replace(one, data=join_data(one.data, BLANK[key.kind]), private=b"")


def consents_behind(
    order: OrderFact, key: AggregateKey, link: LinkState | None
) -> set[AggregateKey]:
    """The consents that an order is for: those that it names, or else those of its link.

    Args:
        order: what was ordered.
        key: of its product request.
        link: the link that the order names, as far as it is known.
    """
    named = consents_named(order) or (link.consents if link is not None else ())
    return {AggregateKey(AggregateKind.CONSENT, key.partner_app_id, one) for one in named}

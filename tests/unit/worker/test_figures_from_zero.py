"""What alerts look at begins at zero: a series that begins higher has no increase to Prometheus."""

from types import MappingProxyType
from typing import cast

from prometheus_client import REGISTRY
from yarl import URL

from shared.clock import SystemClock
from shared.config import CallbacksConfig, Config, SourceConfig
from shared.domain.events import Reason
from shared.store.port import EventStore
from shared.targets import Target
from worker.callbacks.lanes import Lane
from worker.callbacks.service import _observe
from worker.events.apply import Applier


def test_exhausted_deliveries_of_each_endpoint() -> None:
    target = Target("zero", URL("https://example.com/"), (), MappingProxyType({}), 1, False)
    _observe(Lane(target, CallbacksConfig()))
    labels = {"endpoint": "zero", "state": "exhausted"}
    assert REGISTRY.get_sample_value("correio_callbacks_deliveries_total", labels) == 0


def test_every_reason_for_quarantine_of_each_source() -> None:
    store = cast("EventStore", None)
    Applier(store, Config(source=(SourceConfig(name="zero"),)), clock=SystemClock())
    for reason in Reason:
        labels = {"source": "zero", "reason": reason.value}
        assert REGISTRY.get_sample_value("correio_events_quarantined_total", labels) == 0

"""What the parts of the worker share."""

from msgspec import Struct

from shared.broker.publisher import Publisher
from shared.clock import Clock
from shared.config import CallbacksConfig
from shared.store.port import DeliveryStore
from worker.callbacks.patience import Patience


class Means(Struct, frozen=True):
    """The worlds outside, and how to bear with them."""

    store: DeliveryStore
    publisher: Publisher
    patience: Patience
    config: CallbacksConfig
    clock: Clock

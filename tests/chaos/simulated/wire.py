"""What goes over the wire between Correio and the simulated broker."""

import pamqp.frame
from msgspec import Struct
from pamqp.body import ContentBody
from pamqp.commands import Basic
from pamqp.header import ContentHeader

from tests.chaos.simulated.broker import Message


class Published(Struct):
    """One message as it stood on the wire."""

    tag: int
    publish: Basic.Publish
    properties: Basic.Properties
    body: bytes


class Delivered:
    """A message as aiormq hands it over."""

    def __init__(self, tag: int, message: Message) -> None:
        self.delivery_tag = tag
        self.body = message.body
        self.redelivered = message.returned > 0
        self.header = self
        self.properties = self
        self.headers = message.headers


def read_messages(payload: bytes) -> list[tuple[Basic.Publish, Basic.Properties, bytes]]:
    """The messages in a piece of the stream."""
    found: list[tuple[Basic.Publish, Basic.Properties, bytes]] = []
    publish, properties, missing, body = Basic.Publish(), Basic.Properties(), 0, b""
    while payload:
        size, _, frame = pamqp.frame.unmarshal(payload)
        payload = payload[size:]
        if isinstance(frame, Basic.Publish):
            publish = frame
            continue
        if isinstance(frame, ContentHeader):
            properties, missing, body = frame.properties, frame.body_size, b""
        elif isinstance(frame, ContentBody):
            body += frame.value
            missing -= len(frame.value)
        if missing == 0:
            found.append((publish, properties, body))
    return found

"""The connections between the processes and the broker."""

from collections.abc import AsyncIterator

from tests.chaos.catalogue import Chapter
from tests.chaos.stage import Stage
from tests.support.proxy import BOTH, Way, Weather

CHAPTER = Chapter()
SPOOLED = "batches go to the spool and get their 200"


@CHAPTER.row(
    "broker-unreachable",
    fault="nobody reaches the broker",
    how="proxy: all connections reset, new ones refused",
    holds=SPOOLED,
)
async def unreachable(stage: Stage) -> AsyncIterator[None]:
    async with stage.broker.cut():
        await stage.spools()
        await stage.ready("events", "callbacks", ready=False)
        yield


@CHAPTER.row(
    "broker-unreachable-receiver",
    fault="only the receiver cannot reach the broker",
    how="proxy of that role: reset, refused",
    holds=SPOOLED,
)
async def unreachable_for_receiver(stage: Stage) -> AsyncIterator[None]:
    async with stage.broker.only("receiver").cut():
        await stage.spools()
        yield


@CHAPTER.row(
    "broker-unreachable-events",
    fault="only the events worker cannot reach the broker",
    how="proxy of that role: reset, refused",
    holds="messages wait in the broker",
)
async def unreachable_for_events(stage: Stage) -> AsyncIterator[None]:
    async with stage.broker.only("events").cut():
        await stage.ready("events", ready=False)
        yield


@CHAPTER.row(
    "broker-unreachable-callbacks",
    fault="only the callbacks worker cannot reach the broker",
    how="proxy of that role: reset, refused",
    holds="deliveries wait in the store",
)
async def unreachable_for_callbacks(stage: Stage) -> AsyncIterator[None]:
    async with stage.broker.only("callbacks").cut():
        await stage.ready("callbacks", ready=False)
        yield


@CHAPTER.row(
    "broker-connections-reset",
    fault="all connections to the broker break at once, three times",
    how="proxy: reset; new ones pass",
    holds="reconnected by themselves",
    seconds=0.0,
)
async def connections_reset(stage: Stage) -> AsyncIterator[None]:
    for _ in range(3):
        before = stage.broker["receiver"].accepted
        stage.broker.reset()
        await stage.until(lambda b=before: stage.broker["receiver"].accepted > b)
    yield


@CHAPTER.row(
    "broker-black-hole",
    fault="nothing passes to or from the broker, connections stand",
    how="proxy: stops reading in both directions",
    holds=SPOOLED,
    seconds=3.0,
)
async def black_hole(stage: Stage) -> AsyncIterator[None]:
    with stage.broker.under(Weather(held=BOTH)):
        await stage.spools()
        yield


@CHAPTER.row(
    "broker-half-open",
    fault="a firewall has forgotten the connections; the processes hear nothing of it",
    how="proxy: far ends reset, near ends stand silent; new ones pass",
    holds="the silence is noticed; batches go to the spool meanwhile",
    seconds=0.0,
)
async def half_open(stage: Stage) -> AsyncIterator[None]:
    stage.broker.sever()
    await stage.spools()
    yield


@CHAPTER.row(
    "broker-ghosts",
    fault="the processes lose their connections; the broker hears nothing of it",
    how="proxy: near ends reset, far ends stand silent; new ones pass",
    holds="what the ghosts hold is delivered again",
    seconds=0.0,
)
async def ghosts(stage: Stage) -> AsyncIterator[None]:
    before = stage.broker["events"].accepted
    stage.broker.desert()
    await stage.until(lambda: stage.broker["events"].accepted > before)
    yield


@CHAPTER.row(
    "broker-answers-lost",
    fault="confirms and deliveries vanish on their way from the broker",
    how="proxy: what comes down is dropped, then the connections are reset",
    holds="what was confirmed unseen is sent again and applied once",
    seconds=2.0,
)
async def answers_lost(stage: Stage) -> AsyncIterator[None]:
    with stage.broker.under(Weather(lost=frozenset({Way.DOWN}))):
        await stage.spools()
        yield


@CHAPTER.row(
    "broker-requests-lost",
    fault="publishes and acknowledgements vanish on their way to the broker",
    how="proxy: what goes up is dropped, then the connections are reset",
    holds="nothing counts as done that was not confirmed",
    seconds=2.0,
)
async def requests_lost(stage: Stage) -> AsyncIterator[None]:
    with stage.broker.under(Weather(lost=frozenset({Way.UP}))):
        await stage.spools()
        yield


@CHAPTER.row(
    "broker-slow",
    fault="every packet to and from the broker is 300 ms late",
    how="proxy: delay",
    holds="no batch takes the source longer than 10 s",
    seconds=3.0,
)
async def slow(stage: Stage) -> AsyncIterator[None]:
    with stage.broker.under(Weather(delay=0.3)):
        yield


@CHAPTER.row(
    "broker-narrow",
    fault="the line to the broker passes 500 bytes/s",
    how="proxy: throttle, each connection and direction",
    holds=SPOOLED,
    seconds=2.0,
)
async def narrow(stage: Stage) -> AsyncIterator[None]:
    with stage.broker.under(Weather(rate=500.0)):
        await stage.spools()
        yield


@CHAPTER.row(
    "broker-cut-in-a-frame",
    fault="each connection to the broker breaks after 5,000 bytes, amid a frame",
    how="proxy: reset after that many bytes up",
    holds="no half message is taken for a whole one",
    seconds=2.0,
)
async def cut_in_a_frame(stage: Stage) -> AsyncIterator[None]:
    with stage.broker.under(Weather(quota=5_000)):
        stage.broker.reset()
        before = stage.broker["receiver"].accepted
        await stage.until(lambda: stage.broker["receiver"].accepted > before + 3)
        yield

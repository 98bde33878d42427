"""The limit of consuming with aiormq: take messages and acknowledge many at once, do nothing else.

``python -m tests.benchmarks.limits.consume URL QUEUE`` runs until it is ended.
"""

import asyncio
import sys

import aiormq
import uvloop
from aiormq.abc import DeliveredMessage

PREFETCH = 500
EACH = 100


async def consume(url: str, queue: str) -> None:
    connection = await aiormq.connect(url)
    channel = await connection.channel()
    await channel.basic_qos(prefetch_count=PREFETCH)
    taken: list[bytes] = []
    come = asyncio.Event()
    last = acknowledged = 0

    async def collect(message: DeliveredMessage) -> None:
        nonlocal last
        taken.append(message.body)
        last = message.delivery_tag or 0
        come.set()

    await channel.basic_consume(queue, collect)
    while True:
        await come.wait()
        come.clear()
        if len(taken) < EACH:
            await asyncio.sleep(0.002)
        taken.clear()
        if last > acknowledged:
            acknowledged = last
            await channel.basic_ack(last, multiple=True)


if __name__ == "__main__":
    uvloop.run(consume(*sys.argv[1:3]))

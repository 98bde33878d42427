"""What sealing costs the events worker: ``python -m tests.benchmarks.sealing_cost``.

The same queue is worked off by the worker as it is, with a configured key, and by one that seals
nothing (`tests.benchmarks.unsealed`), turn about; told are the rates and the CPU time that each
worker spent on an event.
"""

import argparse
import asyncio
import contextlib
import statistics
from collections.abc import Iterator
from pathlib import Path

from shared.broker import topology
from shared.sealing import new_key
from tests.benchmarks import traffic
from tests.benchmarks.processing import drained, fill
from tests.benchmarks.rig import Running, depth_of, rig
from tests.benchmarks.sides import Correio, Place


class Worker(Correio):
    """The worker, sealing or not."""

    def __init__(self, module: str) -> None:
        self._module = module
        self._key = f"bench:{new_key()}"

    @contextlib.contextmanager
    def worker(self, place: Place) -> Iterator[Running]:
        env = {
            "CORREIO_CONFIG": str(place.folder / "correio.toml"),
            "CORREIO_SEALING__KEYS": self._key,
        }
        with place.rig.running(
            ("python", "-m", self._module, "events"), folder=place.folder, env=env
        ) as running:
            yield running


SIDES = {"sealed": Worker("worker"), "unsealed": Worker("tests.benchmarks.unsealed")}


async def measure(store: str, *, count: int, rounds: int) -> None:
    rates: dict[str, list[float]] = {name: [] for name in SIDES}
    spent: dict[str, list[float]] = {name: [] for name in SIDES}
    async with rig() as place:
        for turn in range(2 * rounds):
            name = list(SIDES)[turn % 2]
            with contextlib.ExitStack() as stack:
                url, folder = stack.enter_context(place.vhost()), place.fresh(f"sealing{turn}")
                where = Place(
                    place, Path(folder), url, stack.enter_context(place.store(store, folder))
                )
                await SIDES[name].prepare(where)
                await fill(url, traffic.events(count))
                async with depth_of(url, topology.EVENTS) as depth:
                    await depth.until(count)
                    with SIDES[name].worker(where) as running:
                        rate, use = await drained(depth, count, {"worker": running.pid})
                        running.check()
            rates[name].append(rate)
            spent[name].append(use.cpu["worker"] / rate)
            print(f"{store} {name:8} {rate:8.0f} events/s, {spent[name][-1] * 1e6:6.1f} µs CPU")
    for what, found, sign in (("rate", rates, -1), ("CPU of the worker", spent, 1)):
        sealed, unsealed = (statistics.median(found[name]) for name in SIDES)
        print(f"{store}: sealing costs {sign * (sealed / unsealed - 1) * 100:+.1f} % by {what}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--store", choices=["sqlite", "postgres"], default="sqlite")
    parser.add_argument("--count", type=int, default=30_000)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    asyncio.run(measure(given.store, count=given.count, rounds=given.rounds))


if __name__ == "__main__":
    main()

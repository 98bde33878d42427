"""What the seed has in store: which faults there are, how often they strike, and for how long."""

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

RATES: dict[str, tuple[float, float]] = {
    # on the way to the broker and back
    "publish cut before it arrives": (0.01, 0.15),
    "publish cut in the middle": (0.01, 0.15),
    "publish cut before its confirm": (0.01, 0.15),
    "confirm delayed": (0.02, 0.4),
    "confirm dropped": (0.005, 0.1),
    "nack": (0.01, 0.2),
    "message twice": (0.01, 0.3),
    "message out of order": (0.02, 0.5),
    "delivery held back": (0.02, 0.4),
    "connection half open": (0.1, 1.0),
    "connect refused": (0.05, 0.5),
    "cut while a question waits": (0.005, 0.05),
    # store and spool
    "store unavailable": (0.005, 0.06),
    "store answer lost": (0.005, 0.06),
    "store conflict": (0.01, 0.15),
    "store slow": (0.01, 0.1),
    "spool disk full": (0.02, 0.4),
    "spool disk failing": (0.01, 0.15),
    "spool slow": (0.02, 0.2),
    "spool misread": (0.002, 0.05),
    "store write fails": (0.0005, 0.01),
    "spool write fails": (0.002, 0.05),
    # source and endpoints
    "request cut": (0.01, 0.15),
    "answer to the source lost": (0.01, 0.2),
    "source sends again": (0.05, 0.5),
    "endpoint refuses connections": (0.02, 0.3),
    "endpoint answers an error": (0.02, 0.4),
    "endpoint throttles": (0.02, 0.2),
    "endpoint hangs": (0.01, 0.1),
    "endpoint is slow": (0.02, 0.3),
    "endpoint's answer is lost": (0.02, 0.3),
    "endpoint's answer breaks off": (0.01, 0.2),
}
"""Fault → the least and the most often that it strikes, as a chance for each occasion."""

COMMON = 0.35
"""Chance that a seed has a given fault at all: few together go deeper than all at once."""


class Weather:
    """The faults of one seed. All chance of the simulated world comes from here."""

    def __init__(self, seed: int, strikes: Mapping[str, float]) -> None:
        """`strikes`: what happens at a moment of its own → how likely it is to be chosen."""
        self.chance = random.Random(seed)
        self.calm = False
        self.seen: Counter[str] = Counter()
        chance = self.chance
        self.rates = {
            fault: least * (most / least) ** chance.random()
            for fault, (least, most) in RATES.items()
            if chance.random() < COMMON
        }
        self._strikes = strikes
        self.kinds = [kind for kind in strikes if chance.random() < COMMON] or ["kill at a step"]

    def strikes(self, fault: str) -> bool:
        """Whether the fault strikes at this occasion."""
        rate = self.rates.get(fault)
        if rate is None or self.calm or self.chance.random() >= rate:
            return False
        self.seen[fault] += 1
        return True

    def latency(self, typical: float) -> float:
        """Seconds that something takes, around `typical`; never nothing."""
        return typical * (0.2 + 1.6 * self.chance.random())

    def between(self, least: float, most: float) -> float:
        return self.chance.uniform(least, most)

    def one_of(self, these: Sequence[Any]) -> Any:
        return these[self.chance.randrange(len(these))]

    def plan(self, *, seconds: float) -> list[tuple[float, str]]:
        """When which strike comes, in order of time."""
        weights = [self._strikes[kind] for kind in self.kinds]
        count = self.chance.randrange(1, 7)
        kinds = self.chance.choices(self.kinds, weights, k=count)
        return sorted((self.chance.uniform(0, seconds), kind) for kind in kinds)

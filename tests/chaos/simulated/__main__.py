"""``python -m tests.chaos.simulated``: run seeds, print those that fail, replay one exactly."""

import argparse
import contextlib
import multiprocessing
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence

from tests.chaos import results
from tests.chaos.simulated.mutants import MUTANTS, SEEDS, planted
from tests.chaos.simulated.rows import TOLD_OF, name_of
from tests.chaos.simulated.run import Verdict, quiet, run


def main() -> int:
    given = _arguments()
    if os.environ.get("PYTHONHASHSEED") != "0":  # the order of sets is part of what replays
        os.environ["PYTHONHASHSEED"] = "0"
        os.execv(sys.executable, [sys.executable, "-m", "tests.chaos.simulated", *sys.argv[1:]])
    quiet()
    if given.mutants:
        return _mutants([given.mutant] if given.mutant else [*MUTANTS])
    if given.seed is not None:
        with planted(given.mutant) if given.mutant else contextlib.nullcontext():
            verdict = run(given.seed, trace=True)
        print(verdict.digest, *verdict.faults, sep="\n  ")
        return bool(verdict.faults)
    first, _, last = f"0:{given.seeds}".rpartition(":")
    return _seeds(range(int(first.rpartition(":")[2]), int(last)), jobs=given.jobs)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.simulated", description=__doc__)
    parser.add_argument("--seeds", default="150", help="how many, or FROM:TO")
    parser.add_argument("--seed", type=int, help="one seed, with everything that happens in it")
    parser.add_argument("--jobs", type=int, default=1, help="processes to spread the seeds over")
    parser.add_argument("--mutants", action="store_true", help="plant each mistake: is it caught?")
    parser.add_argument("--mutant", choices=MUTANTS, help="plant this one")
    return parser.parse_args()


def _seeds(seeds: range, *, jobs: int) -> int:
    began, failed, steps, seen = time.monotonic(), 0, 0, Counter[str]()
    healing = []
    for verdict in _verdicts(seeds, jobs=jobs):
        seen += verdict.seen
        steps += verdict.steps
        healing.append((verdict.healing, verdict.seed))
        if verdict.faults:
            failed += 1
            print(
                f"seed {verdict.seed} ({verdict.digest}):", *verdict.faults, sep="\n  ", flush=True
            )
    for fault in TOLD_OF:
        results.note(name_of(fault), _result(seen[fault], failed, len(seeds)))
    print(*(f"{count:8} {fault}" for fault, count in sorted(seen.items())), sep="\n")
    healing.sort()
    (median, _), (worst, slowest) = healing[len(healing) // 2], healing[-1]
    print(f"drained {median:.0f} s after the last fault, {worst:.0f} s in seed {slowest}")
    took = time.monotonic() - began
    print(f"{len(seeds)} seeds, {failed} failed; {steps} steps in {took:.1f} s")
    return failed > 0


def _result(strikes: int, failed: int, seeds: int) -> str:
    """What the catalogue's table says of a fault."""
    broken = f", {failed} seeds failed" if failed else ""
    return f"{strikes} times in {seeds} seeds{broken}"


def _verdicts(seeds: range, *, jobs: int) -> Iterator[Verdict]:
    if jobs == 1:
        yield from map(run, seeds)
        return
    with multiprocessing.get_context("fork").Pool(jobs) as pool:
        yield from pool.imap(run, seeds, chunksize=20)


def _mutants(names: Sequence[str]) -> int:
    survived = 0
    for name in names:
        for seed in range(SEEDS):
            with planted(name):
                faults = run(seed).faults
            if faults:
                print(f"{name:45} seed {seed}: {faults[0][:100]}", flush=True)
                break
        else:
            survived += 1
            print(f"{name:45} SURVIVED {SEEDS} seeds", flush=True)
    print(f"{len(names)} mutants, {survived} survived")
    return survived > 0


if __name__ == "__main__":
    sys.exit(main())

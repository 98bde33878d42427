"""``python -m tests.chaos.simulated``: run seeds, print those that fail, replay one exactly."""

import argparse
import contextlib
import os
import sys
import time
from collections import Counter
from collections.abc import Sequence

from tests.chaos.simulated.mutants import MUTANTS, SEEDS, planted
from tests.chaos.simulated.run import quiet, run


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
    return _seeds(range(int(first.rpartition(":")[2]), int(last)))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.simulated", description=__doc__)
    parser.add_argument("--seeds", default="150", help="how many, or FROM:TO")
    parser.add_argument("--seed", type=int, help="one seed, with everything that happens in it")
    parser.add_argument("--mutants", action="store_true", help="plant each mistake: is it caught?")
    parser.add_argument("--mutant", choices=MUTANTS, help="plant this one")
    return parser.parse_args()


def _seeds(seeds: range) -> int:
    began, failed, seen, steps, healing = time.monotonic(), 0, Counter[str](), 0, []
    for seed in seeds:
        verdict = run(seed)
        seen += verdict.seen
        steps += verdict.steps
        healing.append((verdict.healing, seed))
        if verdict.faults:
            failed += 1
            print(f"seed {seed} ({verdict.digest}):", *verdict.faults, sep="\n  ", flush=True)
    print(*(f"{count:8} {fault}" for fault, count in sorted(seen.items())), sep="\n")
    healing.sort()
    print(f"drained {healing[len(healing) // 2][0]:.0f} s after the last fault in the middle, "
          f"{healing[-1][0]:.0f} s at the most (seed {healing[-1][1]})")  # fmt: skip
    took = time.monotonic() - began
    print(f"{len(seeds)} seeds, {failed} failed; {steps} steps in {took:.1f} s")
    return failed > 0


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

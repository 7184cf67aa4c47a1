"""Mutation of the corpus: so many inputs from one seed, each find kept.

``python -m tests.fuzz.campaign TARGET SEED SECONDS`` runs one by hand.
"""

from __future__ import annotations

import random
import sys
import time
from pathlib import Path

from tests.fuzz.corpus import first_inputs, keep
from tests.fuzz.mutations import mutate
from tests.fuzz.targets import run_target


class FuzzFind(Exception):
    """An input that broke a promise. It is in the corpus now, and its tests fail until the fault is mended."""


def try_input(target: str, data: bytes) -> None:
    """Run *target*; keep the input if it is a find.

    Raises:
        FuzzFind: it was.
    """
    try:
        run_target(target, data)
    except Exception as exc:
        path = keep(target, data)
        raise FuzzFind(f"{target}: {type(exc).__name__}: {exc}, by {path.relative_to(Path.cwd())}") from exc


def run_inputs(target: str, seed: int, count: int) -> None:
    """Try *count* mutations, the same for the same *seed* and corpus.

    Raises:
        FuzzFind: one of them was a find.
    """
    chooser = random.Random(f"{target} {seed}")
    inputs = first_inputs(target)
    for _ in range(count):
        try_input(target, mutate(chooser, inputs))


def run_seconds(target: str, seed: int, seconds: float) -> int:
    """Try mutations for so long; give how many there were.

    Raises:
        FuzzFind: one of them was a find.
    """
    end = time.monotonic() + seconds
    count = 0
    while time.monotonic() < end:
        run_inputs(target, seed + count, 100)
        count += 100
    return count


if __name__ == "__main__":
    print(run_seconds(sys.argv[1], int(sys.argv[2]), float(sys.argv[3])))  # noqa: T201  its result

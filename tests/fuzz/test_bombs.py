from __future__ import annotations

import pytest

from icehouse.nix.decompress import MAX_MEMORY_BYTES
from tests.fuzz.bombs import BOMBS, WIDE, measure

MIB = 1024 * 1024
MAX_PEAK_BYTES = 16 * MIB
"""Input and output that are under way, and the tables of a decoder."""

SLOW = {"xz: many zeros", "lzip: many zeros", "gzip: many zeros", "bzip2: many zeros"} | WIDE


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.long] if name in SLOW else []) for name in BOMBS]
)
def test_decoding_a_bomb_takes_bounded_memory(name: str) -> None:
    cost = measure(name)
    decoded, peak = cost.decoded_bytes / MIB, cost.peak_bytes / MIB
    print(f"{name}: {cost.outcome} after {decoded:.0f} MiB, {peak:.1f} MiB more memory")  # noqa: T201  for the record
    assert cost.peak_bytes <= MAX_PEAK_BYTES + (MAX_MEMORY_BYTES if name in WIDE else 0)

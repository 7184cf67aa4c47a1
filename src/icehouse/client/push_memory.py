"""How much a push holds in memory."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from icehouse.api.server import ServerParameters

STEP_BYTES: Final = 4 * 1024 * 1024
"""What is read in one go; small NARs are read together up to this size."""

HELD_BYTES: Final = 80 * 1024 * 1024
"""Chunks, frames and packs that are held at once, unless the user says how much memory there is."""

MIN_MEMORY_BYTES: Final = 128 * 1024 * 1024
_PROGRAM_BYTES: Final = 64 * 1024 * 1024
"""Measured: 58 MB before anything is read."""

_THREAD_BYTES: Final = 6 * 1024 * 1024
_PACK_SECONDS: Final = 20


@dataclass(frozen=True, slots=True)
class HeldSizes:
    """How much a push holds in memory."""

    budget_bytes: int
    """Of chunks, frames and packs together."""
    pack_bytes: int
    """One upload."""
    step_bytes: int
    """What is read in one go."""
    threads: int
    """How many work."""


def plan_memory(
    memory_bytes: int | None, threads: int, parameters: "ServerParameters", *, bytes_per_second: int | None = None
) -> HeldSizes:
    """How much to hold, so that the whole process takes *memory_bytes*.

    The budget always has room for a pack that gathers and for one step: otherwise neither would go on. A pack is also
    no more than is sent in `_PACK_SECONDS`: a server, and what stands before it, waits only so long.

    Args:
        memory_bytes: what there is; None: what is quickest.
        threads: how many may work; each compresses, which takes memory of its own.
        parameters: of the server.
        bytes_per_second: how fast is sent at most.
    """
    pack_bytes = parameters.pack_bytes
    if bytes_per_second is not None:
        pack_bytes = min(pack_bytes, max(parameters.chunk_max_bytes, bytes_per_second * _PACK_SECONDS))
    if memory_bytes is None:
        return HeldSizes(max(HELD_BYTES, 4 * pack_bytes), pack_bytes, STEP_BYTES, threads)
    room = max(memory_bytes, MIN_MEMORY_BYTES) - _PROGRAM_BYTES
    threads = max(1, min(threads, room // (2 * _THREAD_BYTES)))
    room -= threads * _THREAD_BYTES
    # A pack is there twice while it is sent, and two are sent at once.
    return HeldSizes(room // 2, min(pack_bytes, room // 12), min(STEP_BYTES, room // 12), threads)

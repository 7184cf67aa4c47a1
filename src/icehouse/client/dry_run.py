"""What a push would send: NARs are read and cut, and the server is asked which of the chunks it lacks."""

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from icehouse.client.cutting import (
    LocalNar,
    NarCutter,
    NarSource,
    distinct_nars,
    grouped,
    in_reading_order,
    worker_threads,
)
from icehouse.client.push_counts import PushCounts
from icehouse.client.push_memory import STEP_BYTES
from icehouse.client.push_plan import PushPlan, chunk_parameters, first_of
from icehouse.client.server import Server


async def measure_new_chunks(
    server: Server, store: NarSource, plan: PushPlan, *, threads: int, counts: PushCounts
) -> None:
    """Count in *counts* what of the NARs of *plan* the server lacks. Nothing is sent but questions.

    Raises:
        Conflict: the local store is damaged.
        IcehouseError: as `Server`'s requests and `walk_nar`.
    """
    groups = grouped(in_reading_order(distinct_nars(plan.publish, store)))
    asked: set[bytes] = set()
    try:
        with worker_threads(threads) as executor:
            async with asyncio.TaskGroup() as tasks:
                for _ in range(threads):
                    tasks.create_task(_ask_for_groups(server, store, plan, groups, executor, asked, counts))
    except BaseExceptionGroup as group:
        raise first_of(group) from group


async def _ask_for_groups(
    server: Server,
    store: NarSource,
    plan: PushPlan,
    groups: Iterator[list[LocalNar]],
    executor: ThreadPoolExecutor,
    asked: set[bytes],
    counts: PushCounts,
) -> None:
    """Read groups until there are none left. Several tasks share *groups* and *asked*."""
    loop = asyncio.get_running_loop()
    for group in groups:
        cutter = NarCutter(group, store.store_dir, chunk_parameters(plan.parameters))
        while not cutter.is_done:
            before = cutter.read_bytes
            stretches = await loop.run_in_executor(executor, cutter.read_some, STEP_BYTES)
            counts.read_bytes += cutter.read_bytes - before
            sizes = {chunk.identity: len(chunk.raw) for stretch in stretches for chunk in stretch.chunks}
            fresh = [identity for identity in sizes if identity not in asked]
            asked.update(fresh)
            for start in range(0, len(fresh), plan.parameters.max_identities):
                batch = fresh[start : start + plan.parameters.max_identities]
                numbers = await server.find_missing_chunks(plan.view.name, batch)
                counts.new_bytes += sum(
                    sizes[identity] for identity, number in zip(batch, numbers, strict=True) if number is None
                )

"""A collection in one process, pushes in others that send or name the very chunks that are about to go."""

import json
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from sqlalchemy import update

from icehouse.db.schema import cache
from icehouse.services.start import DataFolder
from tests.crashes.racing import PATHS, Pusher, QuickTime
from tests.crashes.scenarios import make_empty
from tests.crashes.world import DAY, World

ROOT = Path(__file__).parents[2]
PUSHERS = 2


def begin(folder: Path, role: str, seed: int, began_at: float, pushes: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.crashes.racing", folder, role, str(seed), str(began_at), str(pushes)]
    return subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


async def race(folder: DataFolder, seed: int, pushes: int) -> Counter[str]:
    """Let them run, and check what they leave; how often what happened."""
    await make_empty(folder)
    async with World.open(folder) as world:
        values = {"keep_unused_seconds": DAY, "trash_seconds": 0}
        await world.store.database.write(lambda connection: connection.execute(update(cache).values(**values)) and None)
    began_at = time.time()
    collector = begin(folder.path, "collect", seed, began_at, 0)
    pushers = [begin(folder.path, "push", seed * PUSHERS + number, began_at, pushes) for number in range(PUSHERS)]
    told = [json.loads(pusher.communicate()[0]) for pusher in pushers]
    told.append(json.loads(collector.communicate("stop")[0]))
    assert [loss for one in told for loss in one.pop("losses", [])] == []
    counts = Counter[str]()
    for one in told:
        counts.update(one)
    async with World.open(folder) as world:
        world.nars |= PATHS
        faults = await world.find_faults(())
        pusher = Pusher(world.store, world.cache, QuickTime(began_at))
        for name in PATHS:
            await pusher.push(name)
        assert [*faults, *await world.find_faults(PATHS)] == []
    return counts


async def test_pushes_beside_a_collection_never_lose_a_chunk(tmp_path: Path) -> None:
    counts = await race(DataFolder(tmp_path / "data"), seed=1, pushes=20)
    assert counts["pushes"] == PUSHERS * 20 * 2
    assert counts["deleted packs"]  # how many depends on how quick the pushes are


@pytest.mark.long
@pytest.mark.parametrize("seed", [2, 3, 4])
async def test_many_pushes_beside_a_collection_never_lose_a_chunk(tmp_path: Path, seed: int) -> None:
    counts = await race(DataFolder(tmp_path / "data"), seed, pushes=300)
    print(dict(counts))  # noqa: T201  for the record
    assert counts["deleted packs"] > 50

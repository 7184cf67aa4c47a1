"""A server killed at each step of taking a log: afterwards the old one or the new one is there, whole."""

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from icehouse.db.engine import Database
from icehouse.services.logs import Logs
from icehouse.storage.local import LocalBlobStore
from tests.services.log_and_die import DERIVATION, NEW, OLD, put_log
from tests.services.publish_and_die import CACHE, find_cache
from tests.services.publishing import NOW, Store

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """What is left of a data folder whose server was killed at the first step, at the second, and so on."""

    async def make() -> None:
        store = Store.open(template, LocalBlobStore(template / "blobs"))
        await store.create_cache(CACHE)
        await put_log(store, OLD)
        await store.close()

    template, target = tmp_path_factory.mktemp("template"), tmp_path_factory.mktemp("killed")
    asyncio.run(make())
    subprocess.run([sys.executable, "-m", "tests.services.log_and_die", template, target], check=True, cwd=ROOT)
    return sorted(target.iterdir(), key=lambda folder: int(folder.name))


async def read_log(store: Store) -> bytes:
    logs = Logs(store.database, store.blobs, store.workers, lambda: NOW)
    text = (await logs.open_log(await find_cache(store), DERIVATION)).as_text()
    return b"".join([bytes(block) async for block in text.blocks(0, text.file_size)])


def test_the_steps_are_those_of_a_whole_upload(folders: list[Path]) -> None:
    names = [(folder / "step").read_text() for folder in folders[:-1]]
    assert not (folders[-1] / "step").exists()
    assert [names.count(name) for name in ("after create", "after commit", "before the commit of a write")] == [1, 1, 1]
    assert names.index("after commit") < names.index("before a write")


async def test_after_a_death_the_old_log_or_the_new_one_is_there_whole(folders: list[Path]) -> None:
    seen: list[bytes] = []
    for folder in folders:
        store = Store(Database.open(folder / "icehouse.db"), LocalBlobStore(folder / "blobs"))
        try:
            seen.append(await read_log(store))
            unfinished = store.keys("unfinished/")
            assert len(unfinished) <= 1
            await put_log(store, NEW)
            assert await read_log(store) == NEW
            assert store.keys("unfinished/") == unfinished
            assert len(store.keys("logs/")) == 2
        except AssertionError as exc:
            exc.add_note(f"killed at step {folder.name}")
            raise
        finally:
            await store.close()
    assert list(dict.fromkeys(seen)) == [OLD, NEW]

"""Learning of new paths from a real Nix."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from icehouse.client.local_store import LocalStore
from icehouse.client.store_watcher import StoreWatcher
from icehouse.nix.store_paths import StorePath
from tests.client.private_nix import CLOSURE, PrivateNix
from tests.client.test_inotify import overflow


class Found:
    """What a watcher told of."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def __call__(self, paths: Sequence[StorePath]) -> None:
        self.names += [path.name for path in paths]


@pytest.fixture
def store(nix_here: PrivateNix) -> LocalStore:
    nix_here.run("nix-store", "--store", str(nix_here.root), "--init")
    return LocalStore.locate(str(nix_here.root), nix_here.environment)


async def test_what_is_built_is_told_and_neither_its_derivations_nor_its_sources(
    nix_here: PrivateNix, store: LocalStore, tmp_path: Path
) -> None:
    (tmp_path / "source").write_text("source")
    found = Found()
    watcher = StoreWatcher(store, found)
    nix_here.build(CLOSURE, "base")
    nix_here.run("nix-store", "--store", str(nix_here.root), "--add", str(tmp_path / "source"))
    await watcher.finish()
    watcher.close()
    assert found.names == ["base"]


async def test_what_was_built_while_events_were_lost_is_found(nix_here: PrivateNix, store: LocalStore) -> None:
    found = Found()
    watcher = StoreWatcher(store, found)
    overflow(store.real_dir)
    nix_here.build(CLOSURE, "middle")
    await watcher.finish()
    watcher.close()
    assert sorted(found.names) == ["base", "middle"]

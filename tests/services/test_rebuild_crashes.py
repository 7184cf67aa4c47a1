"""Killed in the middle of a backup, a restore or a rebuild, and done again: everything is whole."""

import secrets
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from icehouse.errors import NotFound
from icehouse.services.backup import Backups
from icehouse.services.backup import restore as restore_backup
from icehouse.services.start import DataFolder, start
from icehouse.storage.local import LocalBlobStore
from tests.services.publishing import NOW
from tests.services.test_backup import add_cache, cache_names
from tests.services.test_rebuild import assert_whole, fill, lose_database, open_store, rebuild

ROOT = Path(__file__).parents[2]


def kill_at_lines(job: str, stride: int, template: Path, target: Path) -> list[Path]:
    target.mkdir()
    command = [sys.executable, "-m", "tests.services.run_and_die", job, str(stride), template, target]
    subprocess.run(command, check=True, cwd=ROOT)
    return sorted((path for path in target.iterdir() if path.is_dir()), key=lambda folder: int(folder.name))


@pytest.fixture
async def backed_up(tmp_path: Path) -> Path:
    """A folder with a cache, a backup of that, and another cache since."""
    folder = DataFolder(tmp_path / "template")
    with start(folder, clock=lambda: NOW, draw=secrets.token_bytes):
        pass
    add_cache(folder, "old")
    await Backups(folder, LocalBlobStore(folder.path), lambda: NOW).back_up()
    add_cache(folder, "new")
    return folder.path


def assert_sound(database: Path) -> None:
    raw = sqlite3.connect(database)
    assert raw.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    raw.close()


async def test_a_backup_that_was_killed_leaves_a_good_one_and_can_be_repeated(backed_up: Path, tmp_path: Path) -> None:
    folders = kill_at_lines("backup", 2, backed_up, tmp_path / "killed")
    assert len(folders) > 20
    for path in folders:
        folder, blobs = DataFolder(path), LocalBlobStore(path)
        backups = Backups(folder, blobs, lambda: NOW + 200)
        found = await backups.list_backups()
        assert 1 <= len(found) <= 2
        assert cache_names(folder) == ["new", "old"]
        for each in found:
            copy = DataFolder(path / f"copy-{each.made_at}")
            copy.path.mkdir()
            restore_backup(copy, blobs, str(path / "backups" / each.name), now=NOW)
            assert cache_names(copy) == (["old"] if each.made_at == NOW else ["new", "old"])
        await backups.back_up(keep=1)
        assert [each.made_at for each in await backups.list_backups()] == [NOW + 200]
        assert not list(path.glob("*unfinished*.*"))


async def test_a_restore_that_was_killed_leaves_one_database_or_the_other(backed_up: Path, tmp_path: Path) -> None:
    folders = kill_at_lines("restore", 2, backed_up, tmp_path / "killed")
    assert len(folders) > 20
    seen: list[list[str]] = []
    for path in folders:
        folder = DataFolder(path)
        assert_sound(folder.database)
        seen.append(cache_names(folder))
        restore_backup(folder, LocalBlobStore(path), "latest", now=NOW + 1)
        assert cache_names(folder) == ["old"]
        assert_sound(folder.database)
        with start(folder, clock=lambda: NOW, draw=secrets.token_bytes):
            pass
        assert not list(path.glob("*.restoring*"))
    assert seen == sorted(seen, key=len, reverse=True)
    assert {len(names) for names in seen} == {1, 2}


async def test_a_rebuild_that_was_killed_is_finished_by_the_next(tmp_path: Path) -> None:
    template = DataFolder(tmp_path / "template")
    await fill(template)
    lose_database(template)
    folders = kill_at_lines("rebuild", 61, template.path, tmp_path / "killed")
    assert len(folders) > 10
    for path in folders:
        folder = DataFolder(path)
        report = await rebuild(folder)
        assert report.lost == {}
        store = open_store(folder)
        try:
            await assert_whole(store)
        except (AssertionError, NotFound) as exc:
            exc.add_note(f"killed at {path.with_suffix('.line').read_text()}")
            raise
        finally:
            await store.close()
        assert not (path / "rebuild.unfinished").exists()
        shutil.rmtree(path)

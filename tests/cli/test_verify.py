"""`icehouse verify` on a data folder."""

import json
import os
import secrets
import subprocess
import sys
from pathlib import Path

import pytest

from icehouse.db.engine import Database
from icehouse.services.start import DataFolder, start
from icehouse.storage.local import LocalBlobStore
from tests.services.publishing import NOW, Store, nar_of

LIB = f"{'a' * 32}-lib"


def icehouse(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "icehouse", *arguments]
    environment = {"PATH": os.environ["PATH"], "COLUMNS": "200"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture
async def folder(tmp_path: Path) -> DataFolder:
    """A server's data folder with one path in it."""
    folder = DataFolder(tmp_path / "data")
    with start(folder, clock=lambda: NOW, draw=secrets.token_bytes):
        store = Store(Database.open(folder.database), LocalBlobStore(folder.path))
        await store.push(await store.create_cache("main"), (LIB, nar_of(b"text " * 50_000), []))
        await store.close()
    return folder


def test_a_whole_folder_leaves_with_0(folder: DataFolder) -> None:
    done = icehouse("verify", "--data-dir", str(folder.path))
    assert (done.returncode, done.stderr) == (0, "")
    assert "1 packs" in done.stdout
    assert done.stdout.endswith("1 paths: all is well.\n")


def test_damage_is_told_with_what_it_hits_and_leaves_with_1(folder: DataFolder) -> None:
    (file,) = (path for path in (folder.path / "packs").rglob("*") if path.is_file())
    data = bytearray(file.read_bytes())
    data[20] ^= 1
    file.write_bytes(data)
    done = icehouse("verify", "main", "--data-dir", str(folder.path))
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    assert [line.split(":")[0] for line in lines[:3]] == ["pack-altered", "chunk-damaged", "nar-unreadable"]
    assert lines[3:5] == [f"  hits main/{LIB}", f"hidden: main/{LIB}"]
    assert lines[-1].endswith(": 3 findings.")
    report = json.loads(icehouse("verify", "--json", "-q", "--data-dir", str(folder.path)).stdout)
    assert [finding["fault"] for finding in report["findings"]] == ["nar-unreadable"]


def test_a_cache_or_a_folder_that_is_not_there_is_not_found(folder: DataFolder) -> None:
    assert icehouse("verify", "other", "--data-dir", str(folder.path)).returncode == 4
    assert icehouse("verify", "--data-dir", str(folder.path / "nothing")).returncode == 4
    assert icehouse("verify", "--fraction", "2", "--data-dir", str(folder.path)).returncode == 2


def test_status_tells_of_the_servers_own_verification_and_leaves_with_1_while_damage_hides_something(
    folder: DataFolder,
) -> None:
    def status(*arguments: str) -> subprocess.CompletedProcess[str]:
        return icehouse("verify", "--status", "--data-dir", str(folder.path), *arguments)

    done = status()
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        "The server has not begun to verify what it keeps.",
        "Damage hides 0 paths now.",
    ]
    for file in (folder.path / "packs").rglob("*"):
        if file.is_file():
            file.unlink()
    icehouse("verify", "--data-dir", str(folder.path))
    done = status("--json")
    assert done.returncode == 1
    assert json.loads(done.stdout)["hidden"] == {f"main/{LIB}": "damaged: its NAR cannot be read whole"}
    assert status("--repair").returncode == 2

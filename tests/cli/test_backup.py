"""`icehouse backup` and `icehouse restore` on a data folder."""

import json
import os
import secrets
import subprocess
import sys
from pathlib import Path

import pytest

from icehouse.services.start import DataFolder, start


def icehouse(*arguments: str, data_dir: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "icehouse", *arguments]
    environment = {"PATH": os.environ["PATH"], "COLUMNS": "200", "ICEHOUSE_DATA_DIR": str(data_dir)}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture
def folder(tmp_path: Path) -> DataFolder:
    folder = DataFolder(tmp_path / "data")
    with start(folder, clock=lambda: 1, draw=secrets.token_bytes):
        pass
    return folder


def test_a_backup_is_made_listed_and_restored(folder: DataFolder) -> None:
    made = json.loads(icehouse("backup", "--json", data_dir=folder.path).stdout)
    assert (folder.path / "backups" / made["name"]).stat().st_size == made["stored_bytes"]
    assert icehouse("backup", "--list", data_dir=folder.path).stdout.splitlines()[1].split()[0] == made["name"]
    folder.secret.unlink()
    done = icehouse("restore", made["name"], data_dir=folder.path)
    assert (done.returncode, done.stdout.startswith(f"Restored {made['name']}")) == (0, True)
    assert "before-restore" in done.stderr
    assert f"{folder.secret} is not there" in done.stderr


def test_a_running_server_keeps_its_database(folder: DataFolder) -> None:
    with start(folder, clock=lambda: 1, draw=secrets.token_bytes):
        assert icehouse("backup", data_dir=folder.path).returncode == 0
        done = icehouse("restore", "latest", data_dir=folder.path)
    assert (done.returncode, "stop it first" in done.stderr) == (1, True)


def test_what_is_not_there_leaves_with_4(folder: DataFolder) -> None:
    assert icehouse("restore", "latest", data_dir=folder.path).returncode == 4
    assert icehouse("restore", "latest", data_dir=folder.path / "none").returncode == 4
    assert icehouse("backup", data_dir=folder.path / "none").returncode == 4

"""Work that is killed, loses power or finds the disk full loses nothing; `campaign` tells how that is tried."""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.conftest import skip_or_fail
from tests.crashes.campaign import Row, small_disk
from tests.crashes.scenarios import SCENARIOS

ROOT = Path(__file__).parents[2]
SEED = 1
SAMPLE = {
    "kill": ["publish", "collect", "back up", "rebuild"],
    "cut": ["first start", "publish by stock Nix", "compact", "restore a backup"],
    "full": ["publish", "heal by a push", "verify and repair", "pin, delete, restore", "replace a log"],
}
FULL_SHARES = {"kill": 0.55, "cut": 0.3, "full": 0.3}
BROKEN = {
    "sync-no-file": ("cut", "publish"),
    "sync-no-folder": ("cut", "publish"),
    "make-rows-before-bytes": ("kill", "publish"),
    "delete-bytes-before-rows": ("kill", "collect"),
    "ignore-failed-writes": ("full", "publish"),
}
"""Each breakage, and how it is found."""


def run_campaign(folder: Path, how: str, share: float, names: Sequence[str], *options: str) -> list[Row]:
    """What became of the scenarios, which is printed too."""
    if how == "full":
        require_mounts(folder)
    command = [sys.executable, "-m", "tests.crashes.campaign", folder, how, "--seed", str(SEED), "--share", str(share)]
    for name in names:
        command += ["--only", name]
    rows: list[Row] = []
    with subprocess.Popen([*command, *options], cwd=ROOT, stdout=subprocess.PIPE, text=True) as campaign:
        for line in campaign.stdout or ():
            row = Row(**json.loads(line))
            rows.append(row)
            numbers = (row.points, row.tried, len(row.losses), f"{row.seconds:.0f} s")
            print("", row.scenario, how, *numbers, "", sep=" | ")  # noqa: T201  a line of the table
    assert campaign.returncode == 0
    return rows


def require_mounts(folder: Path) -> None:
    try:
        with small_disk(folder):
            pass
    except subprocess.CalledProcessError:
        skip_or_fail("file systems cannot be mounted here")


@pytest.fixture(autouse=True)
def _watching() -> None:  # pyright: ignore[reportUnusedFunction]  used by pytest
    """Asks in a process of its own, since this one has threads."""
    question = "from tests.crashes.disk_calls import is_possible; exit(not is_possible())"
    if subprocess.run([sys.executable, "-c", question], cwd=ROOT, check=False).returncode:
        skip_or_fail("ptrace(2) is not possible here")


def losses(rows: Sequence[Row]) -> list[str]:
    return [f"{row.scenario}, {row.how} at {loss}" for row in rows for loss in row.losses]


@pytest.mark.parametrize("how", SAMPLE)
def test_nothing_is_lost_at_some_points(tmp_path: Path, how: str) -> None:
    rows = run_campaign(tmp_path, how, 0.005, SAMPLE[how])
    assert losses(rows) == []
    assert all(row.points > 50 for row in rows)


def test_a_folder_that_is_not_synced_is_a_loss(tmp_path: Path) -> None:
    rows = run_campaign(tmp_path, "cut", 0.06, ["publish"], "--break", "sync-no-folder")
    assert losses(rows)


@pytest.mark.long
@pytest.mark.parametrize("how", FULL_SHARES)
def test_nothing_is_lost_at_very_many_points(tmp_path: Path, how: str) -> None:
    rows = run_campaign(tmp_path, how, FULL_SHARES[how], list(SCENARIOS))
    assert losses(rows) == []
    assert sum(row.tried for row in rows) > (1_000 if how == "kill" else 500)


@pytest.mark.long
@pytest.mark.parametrize("breakage", BROKEN)
def test_every_order_that_is_broken_on_purpose_is_found(tmp_path: Path, breakage: str) -> None:
    how, name = BROKEN[breakage]
    assert losses(run_campaign(tmp_path, how, 0.15, [name], "--break", breakage))

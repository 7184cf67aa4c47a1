"""A cache under a budget, over weeks of a CI: it stays within it, keeps what is pinned, and is whole all the time."""

from pathlib import Path

import pytest

from icehouse.rules import collection
from icehouse.rules.chunks import max_chunks
from icehouse.services import nar_files, nars
from tests.services.history import SCALE, History, Shape, render_history

SMALL = Shape(days=8, builds_a_day=12, pulls_a_day=15, packages=60, apps=8, budget_bytes=900_000_000, trash_days=2)


@pytest.fixture(autouse=True)
def scaled_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Packs and chunks may be smaller by as much as everything else is."""
    for name in ("SMALL_PACK_BYTES", "_COMPACTED_BYTES"):
        monkeypatch.setattr(collection, name, getattr(collection, name) // SCALE)

    def scaled_max_chunks(nar_size: int) -> int:
        return max_chunks(nar_size * SCALE)

    for module in (nars, nar_files):
        monkeypatch.setattr(module, "max_chunks", scaled_max_chunks)


async def live_through(folder: Path, shape: Shape) -> History:
    """A history to its end; what must hold on each day is checked there."""
    history = History(folder, shape, seed=1)
    try:
        await history.run()
        assert await history.check_contents(200) >= len(history.pinned)
    finally:
        await history.close()
    return history


async def test_cache_of_a_few_days_stays_within_its_budget_and_keeps_what_is_pinned(tmp_path: Path) -> None:
    history = await live_through(tmp_path, SMALL)
    assert sum(day.hidden_paths for day in history.days) > 100
    assert sum(day.purged_paths for day in history.days) > 0
    assert max(day.most_bytes for day in history.days) > SMALL.budget_bytes // SCALE
    assert min(history.evictions.idle) >= 0


@pytest.mark.long
async def test_a_month_of_200_builds_a_day_under_a_budget_of_20_gb(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    history = await live_through(tmp_path, Shape())
    with capsys.disabled():
        print(f"\n{render_history(history)}")  # noqa: T201  the record of the run
    assert sum(day.hidden_paths for day in history.days) > 1_000

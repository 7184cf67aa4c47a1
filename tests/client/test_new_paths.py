"""When to ask whether a path is valid."""

import pytest

from icehouse.client import new_paths
from icehouse.client.inotify import FolderEvent, Happened
from icehouse.client.new_paths import NewPaths
from icehouse.nix.store_paths import StorePath

NAME = f"{'a' * 32}-hello"
PATH = StorePath.parse(NAME)
OTHER = StorePath.parse(f"{'b' * 32}-other")


def appeared(name: str) -> FolderEvent:
    return FolderEvent(Happened.APPEARED, name)


def gone(name: str) -> FolderEvent:
    return FolderEvent(Happened.DISAPPEARED, name)


def test_a_path_is_asked_for_as_soon_as_its_lock_disappears() -> None:
    paths = NewPaths()
    paths.note([appeared(f"{NAME}.lock"), appeared(NAME)], 0.0)
    assert paths.take_due(0.0, 10) == []
    paths.note([gone(f"{NAME}.lock")], 1.0)
    assert paths.take_due(1.0, 10) == [PATH]
    paths.settle([PATH], {PATH}, 1.0)
    assert paths.next_due() is None


def test_a_path_that_is_not_valid_yet_is_asked_for_again_and_given_up_in_the_end() -> None:
    paths = NewPaths()
    paths.note([gone(f"{NAME}.lock")], 0.0)
    asked = 0
    while (due := paths.next_due()) is not None:
        assert paths.take_due(due, 10) == [PATH]
        paths.settle([PATH], (), due)
        asked += 1
    assert asked == 4


def test_a_lock_that_disappears_while_nix_is_asked_counts_afresh() -> None:
    paths = NewPaths()
    paths.note([appeared(NAME)], 0.0)
    paths.all_due()
    assert paths.take_due(0.0, 10) == [PATH]
    paths.note([gone(f"{NAME}.lock")], 1.0)
    paths.settle([PATH], (), 2.0)
    assert paths.take_due(2.0, 10) == [PATH]


def test_an_answer_that_did_not_come_is_asked_for_later() -> None:
    paths = NewPaths()
    paths.note([gone(f"{NAME}.lock")], 0.0)
    paths.put_off(paths.take_due(0.0, 10), 5.0)
    assert paths.next_due() == 5.0


@pytest.mark.parametrize("name", [".links", "tmp-1-2", f"{NAME}.drv", "x" * 300])
def test_what_is_no_path_or_a_derivation_is_not_asked_for(name: str) -> None:
    paths = NewPaths()
    paths.note([appeared(name), gone(f"{name}.lock")], 0.0)
    paths.all_due()
    assert paths.take_due(0.0, 10) == []


def test_an_overflow_has_the_store_looked_through_once() -> None:
    paths = NewPaths()
    paths.note([FolderEvent(Happened.OVERFLOWED, "")], 0.0)
    assert paths.has_missed
    paths.looked_through([NAME], 1.0)
    assert not paths.has_missed
    assert paths.take_due(1.0, 10) == [PATH]


def test_more_candidates_than_there_is_room_for_are_found_by_a_look_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(new_paths, "MAX_CANDIDATES", 1)
    paths = NewPaths()
    paths.note([gone(f"{path.base_name}.lock") for path in (PATH, OTHER)], 0.0)
    assert not paths.has_missed  # no room yet
    paths.settle(paths.take_due(0.0, 10), {PATH}, 0.0)
    assert paths.has_missed

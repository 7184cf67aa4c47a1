"""Decisions of verification."""

from array import array
from dataclasses import dataclass

from icehouse.rules.packs import NO_PLACES, PackEntry, Places, render_places
from icehouse.rules.recipes import Recipe, Run
from icehouse.rules.verification import DAMAGED, Fault, check_recipe, compare_index, plan_hiding, referrer_reason

PLACES = Places((3,), (20,), is_split=False)
ENTRIES = [PackEntry(b"a" * 32, 100, 90, NO_PLACES), PackEntry(b"b" * 32, 60, 50, PLACES)]


@dataclass(frozen=True)
class Row:
    number: int = 1
    identity: bytes = b"b" * 32
    pack_offset: int = 100
    stored_bytes: int = 60
    raw_bytes: int = 50
    places: bytes | None = render_places(PLACES)
    is_sound: bool = True


def test_rows_that_the_index_bears_out_have_no_faults() -> None:
    first = Row(2, b"a" * 32, 0, 100, 90, None)
    assert compare_index(ENTRIES, [Row(), first]) == {}
    assert compare_index(ENTRIES, []) == {}


def test_each_kind_of_difference_between_index_and_row_is_told() -> None:
    rows = [Row(1, pack_offset=99), Row(2, stored_bytes=61), Row(3, raw_bytes=51), Row(4, places=None)]
    faults = compare_index(ENTRIES, [*rows, Row(5, identity=b"c" * 32)])
    assert list(faults) == [1, 2, 3, 4, 5]
    assert faults[1] == "the index has it at 100 with 60 bytes, its row at 99 with 60"
    assert faults[5] == "the index does not name it"


def test_a_recipe_is_judged_by_the_rows_of_its_chunks() -> None:
    recipe = Recipe((Run(1, 2), Run(1, 1)), (), array("L"))
    sound = {1: Row(raw_bytes=10), 2: Row(raw_bytes=5)}
    assert check_recipe(recipe, 25, sound) is None
    assert check_recipe(recipe, 24, sound) == (Fault.RECIPE_BROKEN, "its chunks have 25 bytes, the NAR 24")
    assert check_recipe(recipe, 25, {1: sound[1]}) == (Fault.RECIPE_BROKEN, "chunk 2 is not there")
    assert check_recipe(recipe, 25, {}) == (Fault.RECIPE_BROKEN, "chunk 1 is not there, nor 2 more")
    unsound = {**sound, 1: Row(raw_bytes=10, is_sound=False)}
    assert check_recipe(recipe, 25, unsound) == (Fault.NAR_UNREADABLE, "1 of its chunks are quarantined")


def test_referrers_are_followed_over_several_looks() -> None:
    lib, app, top, free = (letter * 32 for letter in "abcd")
    paths = [(top, f"{app}-app {top}-top"), (app, f"{free}-free {lib}-lib"), (free, ""), (lib, "")]
    damaged = {lib: f"{lib}-lib"}
    once = plan_hiding(damaged, paths)
    assert once == {app: f"{lib}-lib"}
    twice = plan_hiding(damaged, paths, once)
    assert twice == {app: f"{lib}-lib", top: f"{lib}-lib"}
    assert plan_hiding(damaged, paths, twice) == twice
    assert referrer_reason(f"{lib}-lib").startswith(DAMAGED)

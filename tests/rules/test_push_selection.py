"""What the user excludes from a push, and what cannot be pushed without it."""

import pytest

from icehouse.nix.path_info_json import ValidPath
from icehouse.nix.store_paths import StorePath
from icehouse.rules.push_selection import Exclusion, select

HASH = "0123456789abcdfghijklmnpqrsvwxyz"


def path(name: str) -> StorePath:
    return StorePath.parse(f"{HASH[:-1]}{name[0]}-{name}")


def valid(name: str, *references: str, size: int = 120) -> ValidPath:
    return ValidPath(path(name), bytes(32), size, tuple(map(path, references)), None, (), None, None)


@pytest.mark.parametrize(
    ("exclusion", "name", "size", "is_covered"),
    [
        (Exclusion(("*-source",)), "a-source", 120, True),
        (Exclusion(("*-source",)), "a-sources", 120, False),
        (Exclusion(("b?", "a-[12]")), "a-2", 120, True),
        (Exclusion((f"{HASH[:-1]}*",)), "a", 120, False),
        (Exclusion(("A",)), "a", 120, False),
        (Exclusion((), 119), "a", 120, True),
        (Exclusion((), 120), "a", 120, False),
        (Exclusion(), "a", 2**40, False),
    ],
)
def test_a_path_is_excluded_by_its_name_or_by_its_size(
    exclusion: Exclusion, name: str, size: int, *, is_covered: bool
) -> None:
    assert exclusion.covers(valid(name, size=size)) is is_covered


def test_what_needs_an_excluded_path_is_left_out_and_what_does_not_stays() -> None:
    lacking = [valid("a"), valid("b", "b"), valid("c", "a", "b"), valid("d", "c"), valid("b-too", "a"), valid("x", "y")]
    selection = select(lacking, Exclusion(("a", "b-*")))
    assert [info.store_path.name for info in selection.excluded] == ["a", "b-too"]
    assert [info.store_path.name for info in selection.dependents] == ["c", "d"]
    assert [info.store_path.name for info in selection.publish] == ["b", "x"]  # y is there, or upstream


def test_without_exclusions_all_is_published_in_its_order() -> None:
    lacking = [valid("a"), valid("b", "a")]
    assert select(lacking, Exclusion()).publish == tuple(lacking)

from __future__ import annotations

import re
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from icehouse.rules.differences import (
    Change,
    ClosurePath,
    Difference,
    Package,
    compare_closures,
    find_alike,
    parse_package,
)

NAMES = st.sampled_from(
    ["app-1.0", "app-1.1", "app-1.0-dev", "lib-2-bin", "lib-2", "lib", "bash-interactive", "x.conf", "glibc-2.40-66"]
)


def path(number: int, name: str, size: int = 100, nar: str | None = None) -> ClosurePath:
    return ClosurePath(f"{number:032}-{name}", f"nar {number}" if nar is None else nar, size)


CLOSURES = st.dictionaries(st.integers(0, 12), NAMES, max_size=8).map(
    lambda names: [path(number, name, 100 + number % 3, f"nar {number % 5}") for number, name in names.items()]
)
SAME_BY_NUMBER = {path(number, "").base_name[:32]: number % 2 for number in range(13)}


def compare(
    before: list[ClosurePath], after: list[ClosurePath], contents: dict[str, int] | None = None
) -> dict[str, Change]:
    return {package.name: package.change for package in compare_closures(before, after, contents or {}).packages}


@pytest.mark.parametrize(
    ("name", "package"),
    [
        ("hello", Package("hello", "")),
        ("hello-2.12.1", Package("hello", "2.12.1")),
        ("glibc-2.40-66-bin", Package("glibc", "2.40-66")),
        ("gcc-13.3.0-lib", Package("gcc", "13.3.0")),
        ("steam-1.0-lib32", Package("steam", "1.0")),
        ("python3.11-numpy-1.26.4-dist", Package("python3.11-numpy", "1.26.4")),
        ("bash-interactive", Package("bash", "")),
        ("perl5.38.2-XML-Parser-2.46", Package("perl5.38.2-XML-Parser", "2.46")),
        ("unit-script-x.service", Package("unit-script-x.service", "")),
        ("source-unstable-2024-05-01", Package("source-unstable", "2024-05-01")),
        ("foo-2024-unstable", Package("foo", "2024")),
        ("a-", Package("a-", "")),
        ("a--1", Package("a", "-1")),
        ("a-_b", Package("a", "_b")),
        ("hook-lib33", Package("hook-lib33", "")),
        ("-lib", Package("", "")),
    ],
)
def test_version_and_output_are_taken_off_a_name(name: str, package: Package) -> None:
    assert parse_package(name) == package


@given(st.from_regex(re.compile(r"[a-z][A-Za-z0-9+._?=]{0,9}", re.ASCII), fullmatch=True), st.integers(0, 99))
def test_name_and_version_that_are_joined_by_a_dash_are_found_again(name: str, number: int) -> None:
    assert parse_package(f"{name}-{number}.1") == Package(name, f"{number}.1")
    assert parse_package(f"{name}-{number}.1-dev") == Package(name, f"{number}.1")


@given(st.text(st.sampled_from("aB1.-_"), max_size=12))
def test_parts_of_a_name_stand_in_it_in_their_order(text: str) -> None:
    package = parse_package(text)
    begun = f"{package.name}-{package.version}" if package.version else package.name
    assert text.startswith(begun)
    assert re.fullmatch(r"(-[a-z]+)?", text[len(begun) :])


def test_packages_are_told_apart_by_what_became_of_them() -> None:
    common = path(0, "common-1")
    before = [common, path(1, "app-1.0"), path(2, "gone-1"), path(3, "lib-2"), path(4, "data"), path(8, "two-1")]
    after = [common, path(5, "app-1.1"), path(6, "lib-2"), path(7, "data"), path(9, "new-1"), path(8, "two-1")]
    after.append(path(10, "two-1"))
    contents = {before[3].base_name: 1, after[2].base_name: 1, before[4].base_name: 2, after[3].base_name: 3}
    assert find_alike(before, after) == contents.keys()
    assert compare(before, after, contents) == {
        "app": Change.VERSION,
        "data": Change.CONTENTS,
        "gone": Change.REMOVED,
        "new": Change.ADDED,
        "two": Change.CONTENTS,
        "lib": Change.REBUILT,
    }


def test_same_nar_in_another_path_is_a_rebuild_without_a_look_at_its_contents() -> None:
    before, after = [path(1, "lib-2", nar="x")], [path(2, "lib-2", nar="x")]
    assert find_alike(before, after) == set()
    assert compare(before, after) == {"lib": Change.REBUILT}


def test_output_with_the_contents_of_another_one_is_no_rebuild() -> None:
    before, after = [path(1, "lib-2-dev", nar="x")], [path(2, "lib-2-bin", nar="x")]
    assert compare(before, after) == {"lib": Change.CONTENTS}


def test_largest_change_comes_first_and_rebuilds_come_last() -> None:
    before = [path(1, "small-1", 10), path(2, "large-1", 900), path(3, "rebuilt-1", 10**9, "r")]
    after = [path(4, "small-2", 12), path(5, "large-2", 100), path(6, "rebuilt-1", 10**9, "r")]
    difference = compare_closures(before, after, {})
    assert [package.name for package in difference.packages] == ["large", "small", "rebuilt"]
    assert [package.size_change for package in difference.packages] == [-800, 2, 0]


@given(CLOSURES, CLOSURES)
def test_changes_of_packages_add_up_to_that_of_the_closure(before: list[ClosurePath], after: list[ClosurePath]) -> None:
    after = unify(before, after)
    difference = compare_closures(before, after, {})
    grown = sum(package.size_change for package in difference.packages)
    assert difference.after.size - difference.before.size == grown
    gone = [each for package in difference.packages for each in package.gone]
    new = [each for package in difference.packages for each in package.new]
    assert Counter(gone) == Counter(before) - Counter(after)
    assert Counter(new) == Counter(after) - Counter(before)
    assert difference.common_count == len(before) - len(gone) == len(after) - len(new)
    assert len({package.name for package in difference.packages}) == len(difference.packages)


@given(CLOSURES, CLOSURES)
def test_the_other_way_round_everything_is_turned(before: list[ClosurePath], after: list[ClosurePath]) -> None:
    after = unify(before, after)
    contents = {name: SAME_BY_NUMBER[name[:32]] for name in find_alike(before, after)}
    assert contents.keys() == find_alike(after, before)
    turned = {Change.ADDED: Change.REMOVED, Change.REMOVED: Change.ADDED}
    there, back = compare_closures(before, after, contents), compare_closures(after, before, contents)
    assert [(each.name, each.change, each.size_change, each.gone, each.new) for each in there.packages] == [
        (each.name, turned.get(each.change, each.change), -each.size_change, each.new, each.gone)
        for each in back.packages
    ]


@given(CLOSURES)
def test_closure_does_not_differ_from_itself(paths: list[ClosurePath]) -> None:
    difference = compare_closures(paths, paths[::-1], {})
    assert difference == Difference(difference.before, difference.before, len(paths), ())


def unify(before: list[ClosurePath], after: list[ClosurePath]) -> list[ClosurePath]:
    """What a hash part stands for in one closure it stands for in the other."""
    known = {each.base_name[:32]: each for each in before}
    return [known.get(each.base_name[:32], each) for each in after]

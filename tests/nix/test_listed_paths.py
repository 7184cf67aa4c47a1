from __future__ import annotations

import pytest

from icehouse.errors import NotFound
from icehouse.nix.listed_paths import MAX_HOPS, Found, Onward, follow
from icehouse.nix.listing import ListedDirectory, ListedNode, ListedRegular, ListedSymlink
from icehouse.nix.store_paths import NIX_STORE

FILE = ListedRegular(5, executable=False, nar_offset=96)
OTHER = f"{'1' * 32}-other".encode()


def folder(**entries: ListedNode) -> ListedDirectory:
    return ListedDirectory({name.encode(): node for name, node in entries.items()})


def link(target: bytes | str) -> ListedSymlink:
    return ListedSymlink(target.encode() if isinstance(target, str) else target)


LIB = folder(file=FILE, up=link(".."), same=link("./file"), long=link("../lib//../lib/same"), outer=link("../../x/y"))
ROOT = folder(
    file=FILE,
    lib=LIB,
    lib64=link("lib"),
    deep=link("lib64/up/lib64/file"),
    loop=link("loop"),
    one=link("two"),
    two=link("one"),
    dangling=link("nowhere"),
    through=link("file/.."),
    away=link(b"/nix/store/" + OTHER + b"/share/doc"),
    outside=link("/etc/passwd"),
    store=link("/nix/store"),
    escape=link("../../etc"),
    sneaky=link("/nix/store/../../etc"),
)


@pytest.mark.parametrize(
    ("way", "expected"),
    [
        ("", ROOT),
        ("file", FILE),
        ("lib", LIB),
        ("lib/file", FILE),
        ("lib64", LIB),
        ("lib64/file", FILE),
        ("lib/up", ROOT),
        ("lib/up/lib64/up/file", FILE),
        ("lib/same", FILE),
        ("lib64/long", FILE),
        ("deep", FILE),
    ],
)
def test_symlinks_inside_are_followed_as_a_file_system_does(
    way: str, expected: ListedRegular | ListedDirectory
) -> None:
    assert follow(ROOT, way.encode().split(b"/") if way else [], NIX_STORE) == Found(expected)


@pytest.mark.parametrize(
    ("way", "expected"),
    [
        ("away", Onward(OTHER, (b"share", b"doc"), 1)),
        ("away/man", Onward(OTHER, (b"share", b"doc", b"man"), 1)),
        ("lib/outer/z", Onward(b"x", (b"y", b"z"), 1)),
    ],
)
def test_symlink_to_another_store_path_leads_onward(way: str, expected: Onward) -> None:
    assert follow(ROOT, way.encode().split(b"/"), NIX_STORE) == expected


def test_store_path_that_is_a_symlink_itself_leads_onward() -> None:
    assert follow(link(OTHER + b"/bin"), [b"sh"], NIX_STORE) == Onward(OTHER, (b"bin", b"sh"), 1)
    assert follow(link(b"/nix/store/" + OTHER), [], NIX_STORE) == Onward(OTHER, (), 1)


@pytest.mark.parametrize(
    ("way", "complaint"),
    [
        ("absent", "no 'absent' in that folder"),
        ("dangling", "no 'nowhere' in that folder"),
        ("file/x", "'x' is looked for in a file"),
        ("through", "'..' is looked for in a file"),
        ("outside", "'/etc/passwd', which is not in the store directory /nix/store"),
        ("store", "'/nix/store', which is not in the store directory"),
        ("escape", "'../etc' from the store directory"),
        ("sneaky", "'../../etc' from the store directory"),
        ("loop", "'loop' is one too many: at most 40"),
        ("one/x", "is one too many: at most 40"),
    ],
)
def test_way_that_leads_to_nothing_is_not_found_and_says_where_it_ended(way: str, complaint: str) -> None:
    with pytest.raises(NotFound, match=complaint):
        follow(ROOT, way.encode().split(b"/"), NIX_STORE)


def test_as_many_symlinks_as_allowed_are_followed_over_all_store_paths() -> None:
    links = {f"{number:02}": link(f"{number + 1:02}") for number in range(MAX_HOPS)}
    root = folder(**links, **{f"{MAX_HOPS:02}": FILE})
    assert follow(root, [b"00"], NIX_STORE) == Found(FILE)
    with pytest.raises(NotFound, match="one too many"):
        follow(root, [b"00"], NIX_STORE, hops=1)


@pytest.mark.parametrize("target", ["..", ".", "/nix/store/", "/nix/store/.."])
def test_root_that_links_to_no_entry_is_not_found(target: str) -> None:
    with pytest.raises(NotFound, match="which is no entry of it"):
        follow(link(target), [], NIX_STORE)


def test_way_back_out_of_the_other_store_path_leads_onward_again() -> None:
    assert follow(ROOT, [b"..", OTHER, b"x"], NIX_STORE, hops=3) == Onward(OTHER, (b"x",), 3)

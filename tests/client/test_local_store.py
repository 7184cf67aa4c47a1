"""The local store is read as Nix itself sees it."""

import hashlib
from pathlib import Path

import pytest

from icehouse.client.local_store import LocalStore, order_by_references
from icehouse.client.named_paths import find_named_paths
from icehouse.client.nar_walk import walk_nar
from icehouse.errors import Conflict, InvalidFormat, NotFound, Unsupported
from icehouse.nix.path_info_json import ValidPath
from icehouse.nix.store_paths import StorePath
from tests.client.private_nix import CLOSURE, PrivateNix

HASH = "0123456789abcdfghijklmnpqrsvwxyz"


def valid(name: str, *references: str) -> ValidPath:
    paths = tuple(StorePath.parse(f"{HASH[:-1]}{reference}-{reference}") for reference in references)
    own = StorePath.parse(f"{HASH[:-1]}{name}-{name}")
    return ValidPath(own, bytes(32), 120, paths, None, (), None, None)


@pytest.mark.parametrize(
    ("store", "environment", "store_dir", "real_dir"),
    [
        (None, {}, "/nix/store", "/nix/store"),
        (None, {"NIX_REMOTE": "daemon"}, "/nix/store", "/nix/store"),
        (None, {"NIX_REMOTE": "/other"}, "/nix/store", "/other/nix/store"),
        (None, {"NIX_STORE_DIR": "/gnu/store"}, "/gnu/store", "/gnu/store"),
        ("/mnt", {"NIX_REMOTE": "daemon"}, "/nix/store", "/mnt/nix/store"),
        ("local?root=/mnt", {}, "/nix/store", "/mnt/nix/store"),
        ("local?root=/mnt&store=/my/store", {}, "/my/store", "/mnt/nix/store"),
        ("/mnt", {"NIX_STORE_DIR": "/my/store"}, "/my/store", "/mnt/nix/store"),
        ("local?store=/my/store&real=/where/it%20is", {}, "/my/store", "/where/it is"),
    ],
)
def test_a_store_is_found_where_nix_keeps_it(
    store: str | None, environment: dict[str, str], store_dir: str, real_dir: str
) -> None:
    found = LocalStore.locate(store, environment)
    assert (found.store_dir.path, str(found.real_dir)) == (store_dir, real_dir)


@pytest.mark.parametrize("store", ["ssh://host", "https://cache.nixos.org", "file:///cache", "s3://bucket", "dummy"])
def test_a_store_whose_files_are_elsewhere_is_refused(store: str) -> None:
    with pytest.raises(Unsupported, match="only files that are here can be pushed"):
        LocalStore.locate(store, {})


def test_a_closure_is_read_with_references_first(nix_here: PrivateNix) -> None:
    top = nix_here.build(CLOSURE, "top")
    store = LocalStore.locate(str(nix_here.root), nix_here.environment)
    infos = store.read_closure([store.find(top)])
    assert [info.store_path.name for info in infos] == ["base", "middle", "top"]
    assert infos[2].store_path in infos[2].references


def test_what_nix_says_of_a_nar_is_what_the_walk_gives(nix_here: PrivateNix) -> None:
    top = nix_here.build(CLOSURE, "top")
    store = LocalStore.locate(f"local?root={nix_here.root}", nix_here.environment)
    for info in store.read_closure([store.find(top)]):
        nar = b"".join(bytes(piece) for piece in walk_nar(store.real_path(info.store_path)))
        assert (hashlib.sha256(nar).digest(), len(nar)) == (info.nar_hash, info.nar_size)


def test_a_path_is_found_through_symlinks_and_from_inside(nix_here: PrivateNix, tmp_path: Path) -> None:
    top = nix_here.build(CLOSURE, "top")
    store = LocalStore.locate(str(nix_here.root), nix_here.environment)
    (tmp_path / "result").symlink_to(top)
    (tmp_path / "again").symlink_to("result")
    (tmp_path / "folder").symlink_to(tmp_path)
    expected = StorePath.parse(Path(top).name)
    for text in (tmp_path / "result", tmp_path / "again", f"{top}/bin/top"):
        assert store.find(str(text)) == expected
    assert store.find(str(tmp_path / "folder/folder/again")) == expected


def test_a_path_outside_the_store_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="does not lead into the store directory /nix/store"):
        LocalStore().find(str(tmp_path))
    with pytest.raises(NotFound, match="is not there, let alone in the store directory"):
        LocalStore().find(str(tmp_path / "result"))


def test_a_path_that_is_no_store_path_is_named() -> None:
    with pytest.raises(InvalidFormat, match="hello"):
        LocalStore().find("/nix/store/hello")


BUILD = """
let
  make = name: script: more: derivation ({
    inherit name; system = builtins.currentSystem; builder = "/bin/sh"; args = [ "-c" script ]; PATH = "/usr/bin:/bin";
  } // more);
in rec {
  tool = make "tool" "echo tool > $out" { };
  text = builtins.toFile "some-source" "text";
  parts = make "parts" "cat ${tool} ${text}; echo a > $out; echo b > $dev" { outputs = [ "out" "dev" ]; };
  top = make "top" "cat ${tool}; echo ${parts} > $out" { };
}
"""


def test_a_build_closure_is_what_was_needed_to_build(nix_here: PrivateNix) -> None:
    top = nix_here.build(BUILD, "top")
    store = LocalStore.locate(str(nix_here.root), nix_here.environment)
    needed = store.find_build_closure([store.find(top)])
    assert sorted(path.name for path in needed) == ["parts", "parts-dev", "some-source", "tool", "top"]
    derivation = store.find(nix_here.run("nix-store", "--store", str(nix_here.root), "-qd", top))
    assert sorted(store.find_build_closure([derivation])) == sorted(needed)
    text = next(path for path in needed if path.name == "some-source")
    assert store.find_build_closure([text]) == []  # nothing built it
    assert [info.store_path.name for info in store.read_closure([derivation])][-1] == "top.drv"
    assert len(store.read_closure([derivation])) == 4  # with the source


def test_a_path_whose_derivation_is_gone_has_no_build_closure(nix_here: PrivateNix) -> None:
    top = nix_here.build(BUILD, "top")
    derivation = nix_here.run("nix-store", "--store", str(nix_here.root), "-qd", top)
    nix_here.run("nix-store", "--store", str(nix_here.root), "--delete", "--ignore-liveness", derivation)
    store = LocalStore.locate(str(nix_here.root), nix_here.environment)
    with pytest.raises(NotFound, match=r"top\.drv is not in the store any more; .* push without --build-closure"):
        store.find_build_closure([store.find(top)])


def test_outputs_of_a_derivation_are_named_as_nix_names_them(nix_here: PrivateNix) -> None:
    tool = nix_here.build(BUILD, "tool")
    derivation = nix_here.run("nix-instantiate", "--store", str(nix_here.root), "-E", BUILD, "-A", "parts")
    store = LocalStore.locate(str(nix_here.root), nix_here.environment)
    for outputs in ("*", "out"):
        with pytest.raises(NotFound, match=r"has no output in the store|was not built"):
            find_named_paths(store, [f"{derivation}^{outputs}"])
    nix_here.build(BUILD, "parts")

    def names(*texts: str, with_build_closure: bool = False) -> list[str]:
        found = find_named_paths(store, texts, with_build_closure=with_build_closure)
        return [path.name for path in found]

    assert sorted(names(f"{derivation}^*")) == ["parts", "parts-dev"]
    assert names(f"{derivation}^dev,out") == ["parts-dev", "parts"]
    assert names(derivation, tool, tool) == ["parts.drv", "tool"]
    with_needed = names(f"{derivation}^dev", with_build_closure=True)
    assert sorted(with_needed) == ["parts", "parts-dev", "some-source", "tool"]
    with pytest.raises(NotFound, match=r"\^doc has no output of that name; it has parts, parts-dev"):
        names(f"{derivation}^doc")
    with pytest.raises(InvalidFormat, match=r"expected outputs behind the \^"):
        names(f"{derivation}^")


def test_files_that_nix_does_not_know_are_not_a_valid_path(nix_here: PrivateNix) -> None:
    nix_here.build(CLOSURE, "base")
    store = LocalStore.locate(str(nix_here.root), nix_here.environment)
    stray = StorePath.parse(f"{HASH}-stray")
    store.real_path(stray).touch()
    with pytest.raises(NotFound, match="stray"):
        store.read_closure([stray])


def test_a_machine_without_nix_is_told_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Unsupported, match="`nix` is not in PATH"):
        LocalStore().read_closure([StorePath.parse(f"{HASH}-hello")])


def test_references_come_before_their_referrers() -> None:
    infos = [valid("a", "b", "a"), valid("b", "d"), valid("c"), valid("d", "c")]
    assert [info.store_path.name for info in order_by_references(infos)] == ["c", "d", "b", "a"]


@pytest.mark.parametrize("infos", [[valid("a", "b"), valid("b", "a")], [valid("a", "b")]], ids=["circle", "hole"])
def test_a_damaged_store_is_reported(infos: list[ValidPath]) -> None:
    with pytest.raises(Conflict, match="the store is damaged"):
        order_by_references(infos)


def path_info_program(folder: Path, version: str, answer: str) -> None:
    """A `nix` that notes its arguments, as those of versions that are not installed here."""
    program = folder / "nix"
    program.write_text(
        f"#!/bin/sh\nif [ \"$1\" = --version ]; then echo '{version}'; exit; fi\n"
        f"echo \"$@\" > {folder}/arguments\ncat <<'END'\n{answer}\nEND\n"
    )
    program.chmod(0o755)


@pytest.mark.parametrize(
    ("version", "takes_format"),
    [
        ("nix (Nix) 2.8.0", False),
        ("nix (Nix) 2.32.4", False),
        ("nix (Nix) 2.33.0", True),
        ("nix (Nix) 2.34.8", True),
        ("nix (Lix, like Nix) 2.94.1", False),
        ("nix (Determinate Nix 3.22.2) 2.35.2", True),
    ],
)
def test_the_shape_of_the_answer_is_asked_for_where_nix_knows_that(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str, *, takes_format: bool
) -> None:
    entry = f'"narHash":"sha256-{"A" * 43}=","narSize":120,"references":[],"ca":null,"deriver":null,"signatures":[]'
    path_info_program(tmp_path, version, f'{{"version":2,"storeDir":"/nix/store","info":{{"{HASH}-a":{{{entry}}}}}}}')
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    infos = LocalStore().read_closure([StorePath.parse(f"{HASH}-a")])
    assert [info.nar_size for info in infos] == [120]
    assert ("--json-format 2" in (tmp_path / "arguments").read_text()) is takes_format

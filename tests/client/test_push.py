"""What a push decides before it sends anything."""

from pathlib import Path

import pytest

from icehouse.api.caches import CacheView, UpstreamBody
from icehouse.client.cutting import LocalNar, NarCutter
from icehouse.client.push import WINDOW_BYTES, find_externals, in_reading_order
from icehouse.errors import Conflict
from icehouse.nix.nar_write import regular_nar_size
from icehouse.nix.path_info_json import ValidPath
from icehouse.nix.signing import SecretKey, Signature, fingerprint
from icehouse.nix.store_paths import NIX_STORE, StorePath
from icehouse.rules.chunks import CHUNK_PARAMETERS
from icehouse.rules.recipes import make_recipe

HASH = "0123456789abcdfghijklmnpqrsvwxyz"
UPSTREAM = SecretKey.generate("up-1", bytes(range(32)))
OTHER = SecretKey.generate("up-1", bytes(32))


def valid(name: str, nar_size: int = 120, *signatures: Signature) -> ValidPath:
    return ValidPath(StorePath.parse(f"{HASH}-{name}"), bytes(32), nar_size, (), None, signatures, None, None)


def signed(name: str, key: SecretKey) -> ValidPath:
    return valid(name, 120, key.sign(fingerprint(valid(name), NIX_STORE)))


def view(*keys: str) -> CacheView:
    return CacheView(
        name="a",
        url="http://x/a",
        is_public=True,
        priority=41,
        want_mass_query=True,
        store_dir="/nix/store",
        public_keys=[],
        upstreams=[UpstreamBody(url="https://up", public_keys=list(keys))],
        created_at=0,
        keep_unused_seconds=None,
        keep_pushed_seconds=None,
        budget_bytes=None,
        limit_bytes=None,
        trash_seconds=604_800,
        stored_bytes=0,
        warning=None,
    )


def test_only_good_signatures_of_an_upstreams_keys_make_a_path_external() -> None:
    closure = [signed("good", UPSTREAM), signed("forged", OTHER), valid("unsigned")]
    moved = valid("moved", 120, *closure[0].signatures)
    found = find_externals([*closure, moved], view(UPSTREAM.public_key.render()), NIX_STORE)
    assert [path.name for path in found] == ["good"]
    assert find_externals(closure, view(), NIX_STORE) == {}


def test_the_largest_nars_of_a_window_come_first_and_windows_keep_their_order() -> None:
    sizes = [10, 30, 20, WINDOW_BYTES - 50, 5, 7]
    order = in_reading_order(LocalNar(valid("a", size), Path()) for size in sizes)
    assert [nar.info.nar_size for nar in order] == [30, 20, 10, WINDOW_BYTES - 50, 7, 5]


def nar_of(file: Path) -> LocalNar:
    return LocalNar(valid(file.name, regular_nar_size(file.stat().st_size, executable=False)), file)


def test_nars_are_cut_a_stretch_at_a_time_and_give_what_a_recipe_needs(tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(bytes(range(251)) * 30_000)
    (tmp_path / "small").write_text(f"/nix/store/{HASH}-a /nix/store/{HASH}-b")
    nars = [nar_of(tmp_path / "large"), nar_of(tmp_path / "small")]
    cutter = NarCutter(nars, NIX_STORE, CHUNK_PARAMETERS)
    steps = 0
    ended: list[LocalNar] = []
    while not cutter.is_done:
        steps += 1
        for stretch in cutter.read_some(1024 * 1024):
            ended += [stretch.nar] if stretch.is_last else []
    assert steps > 5
    assert ended == nars
    assert cutter.read_bytes == sum(nar.info.nar_size for nar in nars)
    recipe = make_recipe(range(1, 1 + len(nars[1].identities)), nars[1].store_hashes)
    assert (recipe.chunk_count, recipe.hashes, tuple(recipe.patches)) == (1, (HASH.encode(),), (0, 0))


def test_a_nar_of_another_size_than_nix_wrote_down_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    nar = LocalNar(valid("file", 128), tmp_path / "file")
    with pytest.raises(Conflict, match="nix-store --verify-path /nix/store/"):
        NarCutter([nar], NIX_STORE, CHUNK_PARAMETERS).read_some(1024)

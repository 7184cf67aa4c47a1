"""What a push decides before it sends anything."""

from pathlib import Path

import pytest

from icehouse.api.caches import CacheView, UpstreamBody
from icehouse.api.server import ServerParameters
from icehouse.client.cutting import WINDOW_BYTES, LocalNar, NarCutter, in_reading_order
from icehouse.client.push_memory import HELD_BYTES, MIN_MEMORY_BYTES, plan_memory
from icehouse.client.push_plan import find_externals
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


MIB = 1024 * 1024


def parameters(pack_bytes: int) -> ServerParameters:
    return ServerParameters(
        version="1",
        public_url="http://x",
        chunk_min_bytes=64 * 1024,
        chunk_average_bytes=256 * 1024,
        chunk_max_bytes=MIB,
        chunk_normalization=1,
        zstd_level=3,
        pack_bytes=pack_bytes,
        max_hash_parts=10,
        max_identities=10,
        max_recipe_bytes=10,
        max_nars=10,
        max_paths=10,
        max_nar_bytes=10,
    )


@pytest.mark.parametrize("pack_bytes", [16 * MIB, 64 * MIB])
@pytest.mark.parametrize("memory_bytes", [None, 1, MIN_MEMORY_BYTES, 4096 * MIB])
@pytest.mark.parametrize("threads", [1, 256])
def test_a_push_always_has_room_for_a_pack_that_gathers_and_a_step(
    memory_bytes: int | None, pack_bytes: int, threads: int
) -> None:
    sizes = plan_memory(memory_bytes, threads, parameters(pack_bytes))
    assert 1 <= sizes.threads <= threads
    # A frame that ends a pack, and the chunks that one more step may find.
    assert sizes.budget_bytes >= sizes.pack_bytes + MIB + sizes.step_bytes + 2 * MIB
    assert sizes.pack_bytes >= MIB
    assert sizes.pack_bytes <= pack_bytes


def test_less_memory_holds_less_and_none_named_what_is_quickest() -> None:
    quickest = plan_memory(None, 2, parameters(16 * MIB))
    assert (quickest.budget_bytes, quickest.pack_bytes) == (HELD_BYTES, 16 * MIB)
    assert plan_memory(MIN_MEMORY_BYTES, 2, parameters(16 * MIB)).budget_bytes < HELD_BYTES / 2


def test_a_slow_sender_makes_small_packs() -> None:
    sizes = plan_memory(None, 2, parameters(16 * MIB), bytes_per_second=100 * 1024)
    assert sizes.pack_bytes == 100 * 1024 * 20
    assert plan_memory(None, 2, parameters(16 * MIB), bytes_per_second=16 * 1024).pack_bytes == MIB


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

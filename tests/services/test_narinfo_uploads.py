"""narinfos that stock Nix uploads: what they commit, what they are refused for, and what waits."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import pytest
from backports.zstd import decompress

from icehouse.api.publish import MissingRequest
from icehouse.db import waiting as waiting_rows
from icehouse.db.caches import delete_cache
from icehouse.db.paths import PathRow, load_paths
from icehouse.db.schema import path, upload, waiting_path, waiting_reference
from icehouse.errors import Conflict, IcehouseError, InvalidFormat, NotFound, TooLarge
from icehouse.nix.compression import Compression
from icehouse.nix.content_address import ContentAddress, IngestionMethod, make_fixed_path
from icehouse.nix.hashes import HashAlgorithm, NixHash
from icehouse.nix.narinfo import NarInfo, render_narinfo
from icehouse.nix.signing import SecretKey, Signature, fingerprint
from icehouse.nix.store_paths import NIX_STORE, StoreDir, StorePath, parse_hash_part
from icehouse.rules.closures import MAX_SIGNATURES
from icehouse.rules.journal import parse_journal_entry
from tests.services.publishing import KEY, Store, nar_of
from tests.services.uploading import NarUpload, StockNix, sign

LIB, APP, TOP = (f"{letter * 32}-{name}" for letter, name in (("a", "lib"), ("b", "app"), ("c", "top")))
LIB_FILE = NarUpload.make(nar_of(b"lib"))
APP_FILE = NarUpload.make(nar_of(b"app " + random.Random(1).randbytes(200_000)), Compression.ZSTD)
TOP_FILE = NarUpload.make(nar_of(b"top"), Compression.NONE)
OWN_KEY = SecretKey.generate("own-1", bytes([7]) * 32)
"""A key of the pusher's."""


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    opened = Store.open(tmp_path)
    yield opened
    await opened.close()


@pytest.fixture
async def nix(store: Store) -> StockNix:
    """Somebody who uploaded three NARs and no narinfo yet."""
    made = StockNix(store, await store.create_cache("main"))
    for file in (LIB_FILE, APP_FILE, TOP_FILE):
        await made.put_nar(file)
    return made


async def find_row(nix: StockNix, base_name: str) -> PathRow | None:
    hash_part = parse_hash_part(base_name[:32])
    rows = await nix.store.database.read(lambda connection: load_paths(connection, nix.cache.id, [hash_part]))
    return rows.get(hash_part)


async def visible(nix: StockNix, *base_names: str) -> list[str]:
    request = MissingRequest([base_name[:32] for base_name in base_names])
    missing = (await nix.store.publisher.find_missing(nix.cache, request)).missing
    return [base_name for base_name in base_names if base_name[:32] not in missing]


async def state_of(store: Store) -> tuple[int, int, int, int, list[str]]:
    counts = [await store.count(table) for table in (path, waiting_path, waiting_reference, upload)]
    return (counts[0], counts[1], counts[2], counts[3], store.keys())


async def signatures_of(nix: StockNix, base_name: str) -> list[Signature]:
    row = await find_row(nix, base_name)
    assert row is not None
    return [Signature.parse(text) for text in row.signatures]


async def test_narinfo_makes_its_path_visible_with_our_signature_before_the_pushers(nix: StockNix) -> None:
    info = sign(LIB_FILE.narinfo(LIB), OWN_KEY)
    info = replace(info, deriver=StorePath.parse(f"{'d' * 32}-lib.drv"), system="x86_64-linux")
    assert await nix.put_narinfo(info) == []
    row = await find_row(nix, LIB)
    assert row is not None
    assert (row.nar_hash, row.nar_size, row.references) == (info.nar_hash, info.nar_size, ())
    assert (row.deriver, row.system) == (f"{'d' * 32}-lib.drv", "x86_64-linux")
    text = fingerprint(info, NIX_STORE)
    first, second = await signatures_of(nix, LIB)
    assert KEY.public_key.verify(text, first)
    assert OWN_KEY.public_key.verify(text, second)


async def test_path_that_was_uploaded_downloads_in_our_own_file(nix: StockNix, store: Store) -> None:
    await nix.put_narinfo(APP_FILE.narinfo(APP))
    row = await find_row(nix, APP)
    file = await store.download(nix.cache, APP_FILE.nar)
    assert row is not None
    assert row.file_size == len(file)
    assert decompress(file) == APP_FILE.nar


async def test_narinfo_without_hash_and_size_of_its_file_is_taken(nix: StockNix) -> None:
    await nix.put_narinfo(replace(LIB_FILE.narinfo(LIB), file_hash=None, file_size=None))
    assert await visible(nix, LIB) == [LIB]


async def test_same_narinfo_again_changes_nothing(nix: StockNix, store: Store) -> None:
    info = sign(LIB_FILE.narinfo(LIB), OWN_KEY)
    await nix.put_narinfo(info)
    before = await state_of(store), await find_row(nix, LIB)
    assert await nix.put_narinfo(info) == []
    assert (await state_of(store), await find_row(nix, LIB)) == before


async def test_two_paths_may_have_the_same_nar(nix: StockNix) -> None:
    for base_name in (LIB, APP):
        await nix.put_narinfo(LIB_FILE.narinfo(base_name))
    assert await visible(nix, LIB, APP) == [LIB, APP]


# What does not fit


OTHER_HASH = NixHash(HashAlgorithm.SHA256, bytes(32))
MD5 = NixHash(HashAlgorithm.MD5, bytes(16))
DISAGREEING: dict[str, tuple[Callable[[NarInfo], NarInfo], type[IcehouseError], str]] = {
    "store directory": (lambda i: replace(i, store_dir=StoreDir.parse("/gnu/store")), InvalidFormat, "is /nix/store"),
    "compression": (lambda i: replace(i, compression="zstd"), InvalidFormat, "Compression zstd, and the file has xz"),
    "NAR hash": (lambda i: replace(i, nar_hash=bytes(32)), InvalidFormat, "NarHash sha256:0"),
    "NAR size": (lambda i: replace(i, nar_size=i.nar_size + 1), InvalidFormat, f"the file has {len(LIB_FILE.nar)}"),
    "file hash": (lambda i: replace(i, file_hash=OTHER_HASH), InvalidFormat, "FileHash sha256:0"),
    "kind of file hash": (lambda i: replace(i, file_hash=MD5), InvalidFormat, "FileHash md5:0"),
    "file size": (lambda i: replace(i, file_size=1), InvalidFormat, "FileSize 1, and the file has"),
    "URL": (lambda i: replace(i, url=i.url + "x"), Conflict, "no such NAR was uploaded"),
    "URL elsewhere": (lambda i: replace(i, url=f"https://x.example/{i.url}"), Conflict, "no such NAR was uploaded"),
    "URL without its folder": (lambda i: replace(i, url=i.url.removeprefix("nar/")), Conflict, "no such NAR"),
    "CA": (
        lambda i: replace(i, ca=ContentAddress(IngestionMethod.NAR, OTHER_HASH)),
        InvalidFormat,
        "gives another store path",
    ),
    "signatures": (
        lambda i: replace(i, signatures=tuple(Signature(f"k{n}", bytes(64)) for n in range(MAX_SIGNATURES + 1))),
        TooLarge,
        "at most 16",
    ),
}


@pytest.mark.parametrize("field", DISAGREEING)
async def test_narinfo_that_disagrees_is_refused_in_a_line_and_changes_nothing(
    nix: StockNix, store: Store, field: str
) -> None:
    change, error, message = DISAGREEING[field]
    before = await state_of(store)
    with pytest.raises(error, match=message) as caught:
        await nix.put_narinfo(change(LIB_FILE.narinfo(LIB)))
    assert "\n" not in str(caught.value)
    assert await state_of(store) == before
    await nix.put_narinfo(LIB_FILE.narinfo(LIB))
    assert await visible(nix, LIB) == [LIB]


async def test_all_that_disagrees_is_told_together(nix: StockNix) -> None:
    with pytest.raises(InvalidFormat, match=r"NarSize 1, .*; FileSize 2, "):
        await nix.put_narinfo(replace(LIB_FILE.narinfo(LIB), nar_size=1, file_size=2))


async def test_narinfo_under_the_name_of_another_path_is_refused(nix: StockNix, store: Store) -> None:
    text = render_narinfo(LIB_FILE.narinfo(LIB)).encode()
    with pytest.raises(InvalidFormat, match="under the name b"):
        await nix.narinfos.receive_narinfo(nix.cache, parse_hash_part("b" * 32), text, token_id=None)
    assert await store.count(path) == 0


async def test_content_address_that_fits_is_kept(nix: StockNix) -> None:
    ca = ContentAddress(IngestionMethod.NAR, NixHash(HashAlgorithm.SHA256, LIB_FILE.narinfo(LIB).nar_hash))
    base_name = make_fixed_path(ca.method, ca.hash, "lib", (), False, NIX_STORE).base_name  # noqa: FBT003
    await nix.put_narinfo(replace(LIB_FILE.narinfo(base_name), ca=ca))
    row = await find_row(nix, base_name)
    assert row is not None
    assert row.ca == ca.render()


async def test_nar_of_another_cache_cannot_be_had_by_its_hash(nix: StockNix, store: Store) -> None:
    """Neither by the name of its upload nor by our own: else a hash, which is no secret, would be enough."""
    await nix.put_narinfo(LIB_FILE.narinfo(LIB))
    other = StockNix(store, await store.create_cache("other"))
    with pytest.raises(Conflict, match="no such NAR was uploaded"):
        await other.put_narinfo(LIB_FILE.narinfo(LIB))
    with pytest.raises(Conflict, match="no such NAR was uploaded"):
        await other.put_narinfo(await own_narinfo(nix, LIB))


async def test_store_directory_of_the_cache_is_the_only_one_taken(nix: StockNix, store: Store) -> None:
    gnu = StoreDir.parse("/gnu/store")
    elsewhere = StockNix(store, replace(nix.cache, store_dir=gnu))
    with pytest.raises(InvalidFormat, match="is /gnu/store"):
        await elsewhere.put_narinfo(LIB_FILE.narinfo(LIB))
    assert await elsewhere.put_narinfo(LIB_FILE.narinfo(LIB, store_dir=gnu)) == []


async def test_narinfo_for_a_cache_that_was_deleted_meanwhile_is_refused(nix: StockNix, store: Store) -> None:
    await nix.put_narinfo(LIB_FILE.narinfo(LIB))
    cache = nix.cache
    await store.database.write(lambda connection: delete_cache(connection, cache.id))
    with pytest.raises((NotFound, Conflict)):
        await nix.put_narinfo(LIB_FILE.narinfo(LIB))


# Signing


async def own_narinfo(nix: StockNix, base_name: str) -> NarInfo:
    """The narinfo that we answer with."""
    row = await find_row(nix, base_name)
    assert row is not None
    file_hash = NixHash.parse(f"sha256:{row.file_hash}")
    return NarInfo(
        store_path=row.store_path,
        store_dir=nix.cache.store_dir,
        url=f"nar/{NixHash(HashAlgorithm.SHA256, row.nar_hash).nix32().removeprefix('sha256:')}.nar.zst",
        compression="zstd",
        file_hash=file_hash,
        file_size=row.file_size,
        nar_hash=row.nar_hash,
        nar_size=row.nar_size,
        references=row.references,
        signatures=tuple(Signature.parse(text) for text in row.signatures),
    )


async def test_signature_is_added_as_nix_store_sign_sends_it(nix: StockNix, store: Store) -> None:
    """With all that we answered in it, our own URL too."""
    await nix.put_narinfo(LIB_FILE.narinfo(LIB))
    keys = store.keys()
    await nix.put_narinfo(sign(await own_narinfo(nix, LIB), OWN_KEY))
    assert [signature.key_name for signature in await signatures_of(nix, LIB)] == [KEY.key_name, "own-1"]
    assert store.keys() == keys


async def test_signature_is_added_to_what_our_client_pushed(nix: StockNix, store: Store) -> None:
    contents = nar_of(b"pushed by icehouse")
    await store.push(nix.cache, (TOP, contents, []))
    await nix.put_narinfo(sign(await own_narinfo(nix, TOP), OWN_KEY))
    assert [signature.key_name for signature in await signatures_of(nix, TOP)] == [KEY.key_name, "own-1"]


async def test_narinfo_without_the_signatures_that_are_there_takes_none_away(nix: StockNix) -> None:
    await nix.put_narinfo(sign(LIB_FILE.narinfo(LIB), OWN_KEY))
    before = await signatures_of(nix, LIB)
    await nix.put_narinfo(LIB_FILE.narinfo(LIB))
    assert await signatures_of(nix, LIB) == before


async def test_forged_signature_under_our_keys_name_is_dropped(nix: StockNix) -> None:
    forger = SecretKey.generate(KEY.key_name, bytes([9]) * 32)
    await nix.put_narinfo(sign(LIB_FILE.narinfo(LIB), forger, OWN_KEY))
    expected = [KEY.key_name, "own-1"]
    assert [signature.key_name for signature in await signatures_of(nix, LIB)] == expected
    await nix.put_narinfo(sign(await own_narinfo(nix, LIB), forger))
    assert [signature.key_name for signature in await signatures_of(nix, LIB)] == expected
    assert KEY.public_key.verify(fingerprint(LIB_FILE.narinfo(LIB), NIX_STORE), (await signatures_of(nix, LIB))[0])


async def test_signed_narinfo_with_another_size_is_refused(nix: StockNix) -> None:
    await nix.put_narinfo(LIB_FILE.narinfo(LIB))
    with pytest.raises(InvalidFormat, match="NarSize 1: the NAR of a"):
        await nix.put_narinfo(replace(await own_narinfo(nix, LIB), nar_size=1))


@pytest.mark.parametrize("change", ["NAR", "references", "name"])
async def test_another_path_under_the_same_hash_part_is_refused(nix: StockNix, change: str) -> None:
    await nix.put_narinfo(LIB_FILE.narinfo(LIB))
    before = await find_row(nix, LIB)
    match change:
        case "NAR":
            info = APP_FILE.narinfo(LIB)
        case "references":
            info = LIB_FILE.narinfo(LIB, [LIB])
        case _:
            info = LIB_FILE.narinfo(LIB + "-2")
    with pytest.raises(Conflict, match="here already"):
        await nix.put_narinfo(info)
    assert await find_row(nix, LIB) == before


async def test_many_clients_may_send_the_same_narinfo_at_once(nix: StockNix, store: Store) -> None:
    keys = [SecretKey.generate(f"own-{number}", bytes([number]) * 32) for number in range(4)]
    await asyncio.gather(*(nix.put_narinfo(sign(LIB_FILE.narinfo(LIB), key)) for key in keys))
    names = {signature.key_name for signature in await signatures_of(nix, LIB)}
    assert names == {KEY.key_name, *(key.key_name for key in keys)}
    assert (await store.count(path), len(store.keys("journal/"))) == (1, 1)


# Waiting


async def test_narinfo_before_its_references_waits_and_tells_for_which(nix: StockNix, store: Store) -> None:
    assert await nix.put_narinfo(TOP_FILE.narinfo(TOP, [APP, LIB, TOP])) == [LIB, APP]
    assert await visible(nix, TOP) == []
    assert store.keys("journal/") == []
    assert await nix.put_narinfo(LIB_FILE.narinfo(LIB)) == []
    assert await visible(nix, LIB, TOP) == [LIB]
    assert await nix.put_narinfo(APP_FILE.narinfo(APP, [LIB])) == []
    assert await visible(nix, LIB, APP, TOP) == [LIB, APP, TOP]
    assert await store.count(waiting_path) == await store.count(waiting_reference) == 0


async def test_paths_that_were_sent_in_the_wrong_order_all_become_visible_with_the_last(
    nix: StockNix, store: Store
) -> None:
    own = sign(TOP_FILE.narinfo(TOP, [APP]), OWN_KEY)
    assert await nix.put_narinfo(own) == [APP]
    assert await nix.put_narinfo(APP_FILE.narinfo(APP, [LIB])) == [LIB]
    assert await nix.put_narinfo(LIB_FILE.narinfo(LIB)) == []
    assert await visible(nix, LIB, APP, TOP) == [LIB, APP, TOP]
    assert [signature.key_name for signature in await signatures_of(nix, TOP)] == [KEY.key_name, "own-1"]
    (key,) = store.keys("journal/")
    told = {each.store_path for each in parse_journal_entry(store.read_blob(key)).paths}
    assert told == {LIB, APP, TOP}


async def test_push_by_our_client_completes_a_path_that_waits(nix: StockNix, store: Store) -> None:
    await nix.put_narinfo(APP_FILE.narinfo(APP, [LIB]))
    await store.push(nix.cache, (LIB, LIB_FILE.nar, []))
    assert await visible(nix, LIB, APP) == [LIB, APP]


async def test_path_that_waits_may_be_published_by_our_client(nix: StockNix, store: Store) -> None:
    await nix.put_narinfo(APP_FILE.narinfo(APP, [LIB]))
    await store.push(nix.cache, (APP, APP_FILE.nar, []))
    assert await visible(nix, APP) == [APP]
    assert await store.count(waiting_path) == 0


async def test_same_narinfo_waits_once(nix: StockNix, store: Store) -> None:
    for _ in range(2):
        assert await nix.put_narinfo(APP_FILE.narinfo(APP, [LIB])) == [LIB]
    assert await store.count(waiting_path) == await store.count(waiting_reference) == 1


async def test_references_and_their_referrers_may_come_at_once_in_any_order(nix: StockNix) -> None:
    infos = [TOP_FILE.narinfo(TOP, [APP, LIB]), APP_FILE.narinfo(APP, [LIB]), LIB_FILE.narinfo(LIB)]
    await asyncio.gather(*(nix.put_narinfo(info) for info in infos))
    assert await visible(nix, LIB, APP, TOP) == [LIB, APP, TOP]


async def test_a_whole_closure_may_come_at_once_in_any_order(nix: StockNix, store: Store) -> None:
    """Each narinfo that is published while others are being decided upon changes what these have to do."""
    letters = "0123456789abcdfghijklmnpqrsvwxyz"
    paths = [f"{letter * 32}-path" for letter in letters]
    infos = [LIB_FILE.narinfo(base_name, paths[max(0, n - 5) : n]) for n, base_name in enumerate(paths)]
    random.Random(1).shuffle(infos)
    await asyncio.gather(*(nix.put_narinfo(info) for info in infos))
    assert await visible(nix, *paths) == paths
    assert await store.count(waiting_path) == 0


async def test_paths_that_wait_are_bounded(nix: StockNix, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that completes them all does so in one transaction, with all of them in memory."""
    monkeypatch.setattr(waiting_rows, "MAX_WAITING_REFERENCES", 4)
    await nix.put_narinfo(TOP_FILE.narinfo(TOP, [LIB, APP]))
    await nix.put_narinfo(TOP_FILE.narinfo(TOP, [LIB, APP]))
    before = await state_of(store)
    with pytest.raises(TooLarge, match="send paths after their references"):
        await nix.put_narinfo(APP_FILE.narinfo(APP, [LIB, f"{'d' * 32}-d", f"{'f' * 32}-f"]))
    assert await state_of(store) == before
    other = StockNix(store, await store.create_cache("other"))
    await other.put_nar(APP_FILE)
    await other.put_narinfo(APP_FILE.narinfo(APP, [LIB, f"{'d' * 32}-d", f"{'f' * 32}-f"]))
    await nix.put_narinfo(LIB_FILE.narinfo(LIB))
    await nix.put_narinfo(APP_FILE.narinfo(APP, [LIB]))
    assert await visible(nix, LIB, APP, TOP) == [LIB, APP, TOP]

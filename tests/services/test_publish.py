"""Publishing through the services, from NARs to visible paths."""

import asyncio
import hashlib
import random
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from itertools import permutations
from pathlib import Path

import msgspec
import pytest
from backports.zstd import ZstdDecompressor, decompress
from sqlalchemy import Connection, delete, select, update

from icehouse.api.publish import MissingRequest, PathBody, PathsAnswer, PathsRequest
from icehouse.db.caches import CacheRow, delete_cache, insert_upstream
from icehouse.db.paths import PathRow, load_paths
from icehouse.db.schema import chunk, external, path, waiting_path, waiting_reference
from icehouse.errors import IcehouseError, InvalidFormat, NotFound, OverQuota, TooLarge
from icehouse.nix.content_address import ContentAddress, IngestionMethod, make_fixed_path, make_text_path
from icehouse.nix.hashes import HashAlgorithm, NixHash
from icehouse.nix.signing import PathInfo, SecretKey, Signature, fingerprint
from icehouse.nix.store_paths import NIX_STORE, StorePath, parse_hash_part
from icehouse.rules.chunks import CHUNK_NAME_BYTES
from icehouse.rules.closures import MAX_SIGNATURES
from icehouse.rules.journal import JournalEntry, parse_journal_entry
from icehouse.rules.packs import TRAILER_BYTES, PackEntry, parse_pack_end, parse_trailer
from icehouse.rules.varints import VarintReader
from icehouse.rules.verification import UNREADABLE
from icehouse.services.publish import MAX_HASH_PARTS, MAX_PATHS, MAX_REFERENCES
from icehouse.storage.blobs import BlobInfo, BlobKey, BlobStore, BlobWriter, FilePart
from icehouse.storage.memory import MemoryBlobStore
from tests.services.publishing import KEY, NOW, Store, cut, identity_of, nar_of, path_body

HASH_A = "a" * 32
HASH_B = "b" * 32
LIB, APP = f"{HASH_A}-lib", f"{HASH_B}-app"
LIB_NAR, APP_NAR = nar_of(b"lib"), nar_of(f"#!/nix/store/{LIB}/bin/sh".encode())
UPSTREAM = SecretKey.generate("upstream-1", bytes([1]) * 32)
STRANGER = SecretKey.generate("stranger-1", bytes([2]) * 32)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    opened = Store.open(tmp_path)
    yield opened
    await opened.close()


@pytest.fixture
async def cache(store: Store) -> CacheRow:
    """A cache with one upstream; its domain has the NARs of this file, and no path."""
    made = await store.create_cache("main")
    await store.database.write(
        lambda connection: insert_upstream(connection, made.id, "https://up.example", [UPSTREAM.public_key])
    )
    bodies = [await store.nar_body(made, contents) for contents in (LIB_NAR, APP_NAR)]
    assert {result.state for result in await store.register(made, *bodies)} == {"stored"}
    return made


async def publish(store: Store, cache: CacheRow, *bodies: PathBody, externals: Sequence[PathBody] = ()) -> PathsAnswer:
    return await store.publisher.publish_paths(cache, PathsRequest(list(bodies), list(externals)), token_id=None)


async def visible(store: Store, cache: CacheRow, *base_names: str) -> list[str]:
    """Those of the paths that are visible."""
    asked = [base_name[:32] for base_name in base_names]
    missing = (await store.publisher.find_missing(cache, MissingRequest(asked))).missing
    return [base_name for base_name in base_names if base_name[:32] not in missing]


async def row_of(store: Store, cache: CacheRow, base_name: str) -> PathRow:
    hash_part = parse_hash_part(base_name[:32])
    rows = await store.database.read(lambda connection: load_paths(connection, cache.id, [hash_part]))
    return rows[hash_part]


async def assert_refused(
    store: Store, cache: CacheRow, body: PathBody, reason: str, *, externals: Sequence[PathBody] = ()
) -> None:
    before = (await store.count(path), await store.count(external), store.keys("journal/"))
    answer = await publish(store, cache, body, externals=externals)
    assert (answer.published, answer.merged) == ([], [])
    assert [refused.store_path for refused in answer.refused] == [body.store_path]
    assert reason in answer.refused[0].reason
    assert (await store.count(path), await store.count(external), store.keys("journal/")) == before


def text_of(body: PathBody) -> bytes:
    """What signatures on a path cover."""
    digest = NixHash.parse(body.nar_hash).digest
    references = tuple(StorePath.parse(reference) for reference in body.references)
    return fingerprint(PathInfo(StorePath.parse(body.store_path), digest, body.nar_size, references), NIX_STORE)


def signed(body: PathBody, *keys: SecretKey) -> PathBody:
    return msgspec.structs.replace(body, signatures=[key.sign(text_of(body)).render() for key in keys])


def key_named(name: str) -> SecretKey:
    return SecretKey.generate(name, hashlib.sha256(name.encode()).digest())


async def test_published_path_is_no_longer_missing_and_downloads_as_it_was(store: Store) -> None:
    cache = await store.create_cache("main")
    big = random.Random(1).randbytes(3_000_000)
    script = nar_of(b"#!/nix/store/" + HASH_A.encode() + b"-lib/bin/sh\n" + big)
    await store.push(cache, (f"{HASH_A}-lib", nar_of(big), []), (f"{HASH_B}-app", script, [f"{HASH_A}-lib"]))
    answer = await store.publisher.find_missing(cache, MissingRequest([HASH_A, HASH_B, "c" * 32]))
    assert answer.missing == ["c" * 32]
    assert decompress(await store.download(cache, script)) == script


# Closures


async def test_path_without_its_reference_is_refused(store: Store, cache: CacheRow) -> None:
    await assert_refused(store, cache, path_body(APP, APP_NAR, [LIB]), f"its reference {LIB} is neither here")


async def test_path_without_its_nar_is_refused(store: Store, cache: CacheRow) -> None:
    await assert_refused(store, cache, path_body(APP, b"another NAR"), "its NAR is not stored")


async def test_nar_of_another_domain_does_not_count(store: Store, cache: CacheRow) -> None:
    """Else whoever knows a hash, which is no secret, could have the bytes."""
    other = await store.create_cache("other", domain_id=await store.create_domain())
    await publish(store, cache, path_body(LIB, LIB_NAR))
    await assert_refused(store, other, path_body(LIB, LIB_NAR), "its NAR is not stored")


async def test_reference_of_another_cache_does_not_count(store: Store, cache: CacheRow) -> None:
    other = await store.create_cache("other")
    await publish(store, cache, path_body(LIB, LIB_NAR))
    await assert_refused(store, other, path_body(APP, APP_NAR, [LIB]), "is neither here")


async def test_wrong_size_of_a_stored_nar_is_refused(store: Store, cache: CacheRow) -> None:
    body = msgspec.structs.replace(path_body(APP, APP_NAR), nar_size=1)
    await assert_refused(store, cache, body, f"its NAR has {len(APP_NAR)} bytes, not 1")


async def test_path_may_refer_to_itself(store: Store, cache: CacheRow) -> None:
    assert (await publish(store, cache, path_body(APP, APP_NAR, [APP]))).published == [APP]
    assert (await row_of(store, cache, APP)).references == (StorePath.parse(APP),)


@pytest.mark.parametrize("order", list(permutations(range(3))), ids=str)
async def test_references_within_a_batch_may_come_in_any_order(
    store: Store, cache: CacheRow, order: tuple[int, ...]
) -> None:
    top = f"{'c' * 32}-top"
    bodies = [path_body(LIB, LIB_NAR), path_body(APP, APP_NAR, [LIB]), path_body(top, LIB_NAR, [APP, LIB])]
    names = [bodies[index].store_path for index in order]
    assert (await publish(store, cache, *(bodies[index] for index in order))).published == names
    assert await visible(store, cache, *names) == names


async def test_two_paths_may_refer_to_each_other(store: Store, cache: CacheRow) -> None:
    answer = await publish(store, cache, path_body(LIB, LIB_NAR, [APP]), path_body(APP, APP_NAR, [LIB]))
    assert answer.published == [LIB, APP]


async def test_reference_that_is_here_under_another_name_is_refused(store: Store, cache: CacheRow) -> None:
    await publish(store, cache, path_body(LIB, LIB_NAR))
    body = path_body(APP, APP_NAR, [f"{HASH_A}-libel"])
    await assert_refused(store, cache, body, f"its reference {HASH_A}-libel is here under the name lib")


async def test_batch_with_one_refused_path_publishes_nothing(store: Store, cache: CacheRow) -> None:
    answer = await publish(store, cache, path_body(LIB, LIB_NAR), path_body(APP, APP_NAR, [f"{'c' * 32}-gone"]))
    assert [refused.store_path for refused in answer.refused] == [APP]
    assert (answer.published, await store.count(path), store.keys("journal/")) == ([], 0, [])


async def test_path_named_twice_in_a_batch_is_refused(store: Store, cache: CacheRow) -> None:
    answer = await publish(store, cache, path_body(LIB, LIB_NAR), path_body(f"{HASH_A}-lob", APP_NAR))
    assert [refused.reason for refused in answer.refused] == ["it is named twice in this request"]
    assert await store.count(path) == 0


async def test_hidden_path_counts_as_missing_and_a_push_of_it_restores_it(store: Store, cache: CacheRow) -> None:
    await publish(store, cache, path_body(LIB, LIB_NAR))
    await store.database.write(lambda connection: connection.execute(update(path).values(hidden_at=NOW)) and None)
    assert await visible(store, cache, LIB) == []
    assert (await publish(store, cache, path_body(LIB, LIB_NAR))).published == [LIB]
    assert await visible(store, cache, LIB) == [LIB]


# Externals


async def test_reference_with_an_upstreams_signature_is_external_and_stays_so(store: Store, cache: CacheRow) -> None:
    evidence = signed(path_body(LIB, b"never uploaded"), STRANGER, UPSTREAM)
    answer = await publish(store, cache, path_body(APP, APP_NAR, [LIB]), externals=[evidence, evidence])
    assert answer.published == [APP]
    assert await visible(store, cache, LIB, APP) == [APP]
    signature = await store.database.read(lambda c: c.execute(select(external.c.signature)).scalar_one())
    assert signature == UPSTREAM.sign(text_of(evidence)).render()
    # From now on it is known.
    top = f"{'c' * 32}-top"
    assert (await publish(store, cache, path_body(top, APP_NAR, [LIB]))).published == [top]


async def test_known_external_named_again_changes_nothing(store: Store, cache: CacheRow) -> None:
    evidence = signed(path_body(LIB, b"never uploaded"), UPSTREAM)
    for _ in range(3):
        await publish(store, cache, path_body(APP, APP_NAR, [LIB]), externals=[evidence])
    assert (await store.count(external), len(store.keys("journal/"))) == (1, 1)


EVIDENCE = signed(path_body(LIB, b"never uploaded"), UPSTREAM)
BAD_EVIDENCE = {
    "none": msgspec.structs.replace(EVIDENCE, signatures=[]),
    "unknown upstream": signed(EVIDENCE, STRANGER),
    "other size": msgspec.structs.replace(EVIDENCE, nar_size=EVIDENCE.nar_size + 1),
    "other references": msgspec.structs.replace(EVIDENCE, references=[APP]),
    "other name": msgspec.structs.replace(EVIDENCE, store_path=f"{HASH_A}-libel"),
    "other key of that name": signed(EVIDENCE, SecretKey.generate("upstream-1", bytes([3]) * 32)),
}


@pytest.mark.parametrize("evidence", BAD_EVIDENCE.values(), ids=BAD_EVIDENCE)
async def test_external_without_right_evidence_is_refused(store: Store, cache: CacheRow, evidence: PathBody) -> None:
    with pytest.raises(InvalidFormat, match="no signature by a key of an upstream of this cache"):
        await publish(store, cache, path_body(APP, APP_NAR, [LIB]), externals=[evidence])
    assert (await store.count(path), await store.count(external), store.keys("journal/")) == (0, 0, [])


async def test_upstream_of_another_cache_is_no_evidence(store: Store, cache: CacheRow) -> None:
    other = await store.create_cache("other")
    evidence = signed(path_body(LIB, b"never uploaded"), UPSTREAM)
    await publish(store, cache, path_body(APP, APP_NAR, [LIB]), externals=[evidence])
    with pytest.raises(InvalidFormat, match="no signature"):
        await publish(store, other, path_body(APP, APP_NAR, [LIB]), externals=[evidence])
    await assert_refused(store, other, path_body(APP, APP_NAR, [LIB]), "is neither here")


async def test_external_under_another_name_than_the_known_one_is_refused(store: Store, cache: CacheRow) -> None:
    other_name = f"{HASH_A}-libel"
    known, other = (signed(path_body(name, b"x"), UPSTREAM) for name in (LIB, other_name))
    await publish(store, cache, path_body(APP, APP_NAR, [LIB]), externals=[known])
    body = path_body(f"{'c' * 32}-top", APP_NAR, [other_name])
    await assert_refused(store, cache, body, "is here under the name lib", externals=[other])


# Paths that are there


async def test_repeating_changes_nothing(store: Store, cache: CacheRow) -> None:
    body = path_body(LIB, LIB_NAR)
    await publish(store, cache, body)
    before = (await row_of(store, cache, LIB), store.keys())
    answer = await publish(store, cache, body)
    assert (answer.published, answer.merged) == ([], [LIB])
    assert (await row_of(store, cache, LIB), store.keys()) == before


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (path_body(LIB, APP_NAR), "here already with another NAR hash; nothing was changed"),
        (path_body(LIB, LIB_NAR, [LIB]), "here already with other references; nothing was changed"),
        (path_body(f"{HASH_A}-libel", LIB_NAR), f"its hash part is that of {LIB}"),
    ],
    ids=["NAR hash", "references", "name"],
)
async def test_present_path_that_differs_is_refused_and_stays(
    store: Store, cache: CacheRow, body: PathBody, reason: str
) -> None:
    await publish(store, cache, path_body(LIB, LIB_NAR))
    before = await row_of(store, cache, LIB)
    await assert_refused(store, cache, signed(body, UPSTREAM), reason)
    assert await row_of(store, cache, LIB) == before


async def test_signatures_are_merged_but_for_those_forged_under_the_name_of_a_known_key(
    store: Store, cache: CacheRow
) -> None:
    body = path_body(LIB, LIB_NAR)
    await publish(store, cache, body)
    forged = Signature(UPSTREAM.key_name, bytes(64)).render()
    ours, theirs = KEY.sign(text_of(body)).render(), UPSTREAM.sign(text_of(body)).render()
    unknown = STRANGER.sign(text_of(body)).render()
    await publish(store, cache, msgspec.structs.replace(body, signatures=[forged, unknown, theirs, ours]))
    assert (await row_of(store, cache, LIB)).signatures == (ours, unknown, theirs)


async def wait_or_publish(store: Store, cache: CacheRow, body: PathBody) -> bool:
    """Publish as stock Nix does, and tell whether the path is visible now."""
    await store.publisher.publish_or_wait(cache, body, token_id=None)
    return bool(await visible(store, cache, body.store_path))


TOOL = f"{'c' * 32}-tool"


async def test_path_that_lacks_references_waits_for_them(store: Store, cache: CacheRow) -> None:
    tool, app, lib = path_body(TOOL, LIB_NAR, [APP, TOOL]), path_body(APP, APP_NAR, [LIB]), path_body(LIB, LIB_NAR)
    assert not await wait_or_publish(store, cache, signed(tool, STRANGER))
    assert not await wait_or_publish(store, cache, app)
    assert await visible(store, cache, TOOL, APP, LIB) == []
    await publish(store, cache, lib)
    assert await visible(store, cache, TOOL, APP, LIB) == [TOOL, APP, LIB]
    ours, theirs = map(Signature.parse, (await row_of(store, cache, TOOL)).signatures)
    text = text_of(tool)
    assert KEY.public_key.verify(text, ours)
    assert STRANGER.public_key.verify(text, theirs)
    assert await store.count(waiting_path) == await store.count(waiting_reference) == 0
    journal = [parse_journal_entry(store.read_blob(key)) for key in store.keys("journal/")]
    assert sorted(entry.store_path for one in journal for entry in one.paths) == sorted([TOOL, APP, LIB])


async def test_path_waits_until_the_last_of_its_references_is_there(store: Store, cache: CacheRow) -> None:
    assert not await wait_or_publish(store, cache, path_body(TOOL, LIB_NAR, [APP, LIB]))
    await publish(store, cache, path_body(LIB, LIB_NAR))
    assert await visible(store, cache, TOOL) == []
    await publish(store, cache, path_body(APP, APP_NAR, [LIB]))
    assert await visible(store, cache, TOOL) == [TOOL]


async def test_external_reference_completes_a_path_that_waits(store: Store, cache: CacheRow) -> None:
    assert not await wait_or_publish(store, cache, path_body(APP, APP_NAR, [LIB]))
    await publish(store, cache, externals=[signed(path_body(LIB, LIB_NAR), UPSTREAM)])
    assert await visible(store, cache, APP) == [APP]


async def test_path_that_waits_in_one_cache_is_not_completed_by_another(store: Store, cache: CacheRow) -> None:
    other = await store.create_cache("other")
    assert not await wait_or_publish(store, cache, path_body(APP, APP_NAR, [LIB]))
    await publish(store, other, path_body(LIB, LIB_NAR))
    assert await visible(store, cache, APP) == []


async def test_path_that_waits_is_replaced_by_a_later_one(store: Store, cache: CacheRow) -> None:
    assert not await wait_or_publish(store, cache, path_body(APP, APP_NAR, [LIB, TOOL]))
    assert not await wait_or_publish(store, cache, path_body(APP, APP_NAR, [LIB]))
    await publish(store, cache, path_body(LIB, LIB_NAR))
    assert await visible(store, cache, APP) == [APP]


async def test_path_whose_nar_is_not_there_does_not_wait(store: Store, cache: CacheRow) -> None:
    plan = await store.publisher.publish_or_wait(cache, path_body(APP, nar_of(b"?"), [LIB]), token_id=None)
    assert [reason for _, reason in plan.refused if "NAR is not stored" in reason]
    assert await store.count(waiting_path) == 0


async def test_own_signature_comes_first_and_verifies_over_the_fingerprint(store: Store, cache: CacheRow) -> None:
    await publish(store, cache, path_body(LIB, LIB_NAR))
    body = signed(path_body(APP, APP_NAR, [APP, LIB]), STRANGER)
    await publish(store, cache, body)
    ours, theirs = map(Signature.parse, (await row_of(store, cache, APP)).signatures)
    assert KEY.public_key.verify(text_of(body), ours)
    assert STRANGER.public_key.verify(text_of(body), theirs)


async def test_false_signature_under_the_name_of_a_known_key_is_dropped(store: Store, cache: CacheRow) -> None:
    body = path_body(LIB, LIB_NAR)
    false = [Signature(name, bytes(64)).render() for name in (KEY.key_name, UPSTREAM.key_name)]
    await publish(store, cache, msgspec.structs.replace(body, signatures=false))
    assert (await row_of(store, cache, LIB)).signatures == (KEY.sign(text_of(body)).render(),)


async def test_path_has_at_most_sixteen_signatures_with_ours_among_them(store: Store, cache: CacheRow) -> None:
    body = signed(path_body(LIB, LIB_NAR), *(key_named(f"key-{number}") for number in range(MAX_SIGNATURES)))
    await publish(store, cache, body)
    signatures = (await row_of(store, cache, LIB)).signatures
    assert len(signatures) == MAX_SIGNATURES
    assert signatures[0] == KEY.sign(text_of(body)).render()


# Bad input


FIXED = ContentAddress(IngestionMethod.NAR, NixHash(HashAlgorithm.SHA256, hashlib.sha256(LIB_NAR).digest()))
FIXED_PATH = make_fixed_path(FIXED.method, FIXED.hash, "source", [], False, NIX_STORE).base_name  # noqa: FBT003 - as there
TEXT = ContentAddress(IngestionMethod.TEXT, NixHash(HashAlgorithm.SHA256, hashlib.sha256(b"lib").digest()))
TEXT_PATH = make_text_path(TEXT.hash.digest, "lib.txt", [], NIX_STORE).base_name


@pytest.mark.parametrize(("ca", "base_name"), [(FIXED, FIXED_PATH), (TEXT, TEXT_PATH)], ids=["NAR", "text"])
async def test_content_address_that_fits_its_path_is_kept(
    store: Store, cache: CacheRow, ca: ContentAddress, base_name: str
) -> None:
    body = msgspec.structs.replace(path_body(base_name, LIB_NAR), ca=ca.render())
    assert (await publish(store, cache, body)).published == [base_name]
    assert (await row_of(store, cache, base_name)).ca == ca.render()


BAD_PATHS: dict[str, tuple[PathBody, type[IcehouseError], str]] = {
    "CA of another path": (
        msgspec.structs.replace(path_body(LIB, LIB_NAR), ca=FIXED.render()),
        InvalidFormat,
        "gives another store path",
    ),
    "CA of another NAR": (
        msgspec.structs.replace(path_body(FIXED_PATH, APP_NAR), ca=FIXED.render()),
        InvalidFormat,
        "is that of another NAR",
    ),
    "base name": (path_body("lib", LIB_NAR), InvalidFormat, "lib"),
    "full path": (path_body(f"/nix/store/{LIB}", LIB_NAR), InvalidFormat, "/nix/store"),
    "reference": (path_body(LIB, LIB_NAR, ["../etc"]), InvalidFormat, "etc"),
    "NAR hash": (msgspec.structs.replace(path_body(LIB, LIB_NAR), nar_hash="sha256:x"), InvalidFormat, "sha256"),
    "NAR size": (msgspec.structs.replace(path_body(LIB, LIB_NAR), nar_size=0), InvalidFormat, "a NAR of 0 bytes"),
    "deriver": (msgspec.structs.replace(path_body(LIB, LIB_NAR), deriver="x\nSig: y"), InvalidFormat, "Sig"),
    "system": (msgspec.structs.replace(path_body(LIB, LIB_NAR), system="x\nSig: y"), InvalidFormat, "is no system"),
    "signature": (msgspec.structs.replace(path_body(LIB, LIB_NAR), signatures=["k:x"]), InvalidFormat, "signature"),
    "many signatures": (
        msgspec.structs.replace(path_body(LIB, LIB_NAR), signatures=["k:x"] * (MAX_SIGNATURES + 1)),
        TooLarge,
        "17 signatures",
    ),
    "many references": (path_body(LIB, LIB_NAR, [LIB] * (MAX_REFERENCES + 1)), TooLarge, "10001 references"),
}


@pytest.mark.parametrize(("body", "error", "message"), BAD_PATHS.values(), ids=BAD_PATHS)
async def test_broken_path_is_an_error_that_says_what_is_broken(
    store: Store, cache: CacheRow, body: PathBody, error: type[IcehouseError], message: str
) -> None:
    with pytest.raises(error, match=message):
        await publish(store, cache, path_body(APP, APP_NAR), body)
    with pytest.raises(error, match=message):
        await publish(store, cache, path_body(APP, APP_NAR), externals=[body])
    assert (await store.count(path), store.keys("journal/")) == (0, [])


async def test_too_many_paths_or_questions_are_too_large(store: Store, cache: CacheRow) -> None:
    bodies = [path_body(LIB, LIB_NAR)] * (MAX_PATHS + 1)
    with pytest.raises(TooLarge):
        await publish(store, cache, *bodies)
    with pytest.raises(TooLarge):
        await publish(store, cache, externals=bodies)
    with pytest.raises(TooLarge):
        await store.publisher.find_missing(cache, MissingRequest([HASH_A] * (MAX_HASH_PARTS + 1)))
    with pytest.raises(InvalidFormat):
        await store.publisher.find_missing(cache, MissingRequest(["e" * 32]))


async def test_cache_deleted_meanwhile_is_not_found(store: Store, cache: CacheRow) -> None:
    await store.database.write(lambda connection: delete_cache(connection, cache.id))
    with pytest.raises(NotFound):
        await publish(store, cache, path_body(LIB, LIB_NAR))
    assert await store.count(path) == 0


# Several clients


async def test_two_clients_that_publish_the_same_path_at_once_both_succeed(store: Store, cache: CacheRow) -> None:
    answers = await asyncio.gather(*(publish(store, cache, path_body(LIB, LIB_NAR)) for _ in range(4)))
    assert sorted(len(answer.published) for answer in answers) == [0, 0, 0, 1]
    assert sorted(len(answer.merged) for answer in answers) == [0, 1, 1, 1]
    assert (await store.count(path), len(store.keys("journal/"))) == (1, 1)


async def test_two_clients_that_publish_a_path_with_different_nars_at_once_get_one_of_them(
    store: Store, cache: CacheRow
) -> None:
    answers = await asyncio.gather(*(publish(store, cache, path_body(LIB, nar)) for nar in (LIB_NAR, APP_NAR)))
    assert sorted(len(answer.published) for answer in answers) == [0, 1]
    (refused,) = (answer.refused for answer in answers if answer.refused)
    assert "another NAR hash" in refused[0].reason
    # The journal tells of what happened, and of nothing else.
    (key,) = store.keys("journal/")
    (told,) = parse_journal_entry(store.read_blob(key)).paths
    assert told.nar_hash == (await row_of(store, cache, LIB)).nar_hash


async def test_two_batches_of_which_one_needs_the_other_leave_no_open_closure(store: Store, cache: CacheRow) -> None:
    """Whatever comes first: the second batch is published, or refused and published when repeated."""
    lib, app = path_body(LIB, LIB_NAR), path_body(APP, APP_NAR, [LIB])
    answers = await asyncio.gather(publish(store, cache, app), publish(store, cache, lib))
    assert answers[1].published == [LIB]
    if answers[0].refused:
        assert await visible(store, cache, APP) == []
        await publish(store, cache, app)
    assert await visible(store, cache, LIB, APP) == [LIB, APP]


async def test_two_batches_with_a_path_in_common_both_succeed(store: Store, cache: CacheRow) -> None:
    lib, app, top = path_body(LIB, LIB_NAR), path_body(APP, APP_NAR, [LIB]), path_body(f"{'c' * 32}-top", LIB_NAR)
    answers = await asyncio.gather(publish(store, cache, lib, app), publish(store, cache, top, lib))
    assert not any(answer.refused for answer in answers)
    assert await store.count(path) == 3


# The journal


class WatchedPuts:
    """A `BlobStore` over another that asks before each `put`."""

    def __init__(self, blobs: BlobStore, before_put: Callable[[BlobKey], None]) -> None:
        self._blobs = blobs
        self._before_put = before_put

    def create(self) -> BlobWriter:
        return self._blobs.create()

    def put(self, key: BlobKey, data: bytes) -> None:
        self._before_put(key)
        self._blobs.put(key, data)

    def size(self, key: BlobKey) -> int:
        return self._blobs.size(key)

    def read_into(self, key: BlobKey, offset: int, buffer: memoryview) -> None:
        self._blobs.read_into(key, offset, buffer)

    def read_warm(self, key: BlobKey, offset: int, buffer: memoryview) -> bool:
        return self._blobs.read_warm(key, offset, buffer)

    def find_warm(self, key: BlobKey, offset: int, size: int) -> FilePart | None:
        return self._blobs.find_warm(key, offset, size)

    def list(self, prefix: str = "") -> Iterator[BlobInfo]:
        return self._blobs.list(prefix)

    def describe(self, key: BlobKey) -> BlobInfo:
        return self._blobs.describe(key)

    def delete_unchanged(self, info: BlobInfo) -> bool:
        return self._blobs.delete_unchanged(info)

    def delete(self, key: BlobKey) -> None:
        self._blobs.delete(key)


async def test_disk_that_is_full_before_the_journal_keeps_the_path_out(tmp_path: Path) -> None:
    """So the journal comes first, and no path is visible that it does not tell of."""
    is_full = True

    def fail(key: BlobKey) -> None:
        if is_full:
            raise OverQuota(f"{key}: the disk is full")

    store = Store.open(tmp_path, WatchedPuts(MemoryBlobStore(), fail))
    cache = await store.create_cache("main")
    with pytest.raises(OverQuota):
        await store.push(cache, (LIB, LIB_NAR, []))
    assert await visible(store, cache, LIB) == []
    is_full = False
    await store.push(cache, (LIB, LIB_NAR, []))
    assert await visible(store, cache, LIB) == [LIB]
    await store.close()


def frames_of(store: Store) -> dict[bytes, tuple[PackEntry, bytes]]:
    """All chunks, from the packs alone."""
    found: dict[bytes, tuple[PackEntry, bytes]] = {}
    for key in store.keys("packs/"):
        data = store.read_blob(key)
        end = len(data) - parse_trailer(data[-TRAILER_BYTES:], pack_bytes=len(data))
        offset = 0
        for entry in parse_pack_end(data[end:]):
            found[entry.identity[:CHUNK_NAME_BYTES]] = entry, data[offset : offset + entry.stored_bytes]
            offset += entry.stored_bytes
        assert offset == end
    return found


def rebuild_file(entry: JournalEntry, nar_hash: bytes, frames: dict[bytes, tuple[PackEntry, bytes]]) -> bytes:
    """The file of a NAR, from the journal and the packs alone."""
    (told,) = (nar for nar in entry.nars if nar.nar_hash == nar_hash)
    hashes = [told.hashes[at : at + 32].encode() for at in range(0, len(told.hashes), 32)]
    patches = VarintReader(told.patches, "patches")
    out = bytearray()
    for at in range(0, len(told.chunks), CHUNK_NAME_BYTES):
        pack_entry, data = frames[told.chunks[at : at + CHUNK_NAME_BYTES]]
        frame = bytearray(data)
        for offset in pack_entry.places.patch_offsets:
            frame[offset : offset + 32] = hashes[patches.varint(len(hashes) - 1)]
        out += frame
    patches.finish()
    assert (hashlib.sha256(out).digest(), len(out)) == (told.file_hash, told.file_size)
    return bytes(out)


def decode_all(file: bytes) -> bytes:
    out = bytearray()
    while file:
        decompressor = ZstdDecompressor()
        out += decompressor.decompress(file)
        file = decompressor.unused_data
    return bytes(out)


async def test_journal_and_packs_alone_give_back_all_that_was_published(store: Store, cache: CacheRow) -> None:
    big = nar_of(random.Random(5).randbytes(1_500_000) + APP_NAR * 50 + random.Random(6).randbytes(1_500_000))
    evidence = signed(path_body(f"{'d' * 32}-libc", b"never uploaded"), UPSTREAM)
    top = path_body(f"{'c' * 32}-top", big, [LIB, evidence.store_path])
    top = msgspec.structs.replace(signed(top, STRANGER), deriver=f"{'f' * 32}-top.drv", system="x86_64-linux")
    await store.register(cache, await store.nar_body(cache, big))
    text = msgspec.structs.replace(path_body(TEXT_PATH, LIB_NAR), ca=TEXT.render())
    await publish(store, cache, path_body(LIB, LIB_NAR), top, text, externals=[evidence])

    (key,) = store.keys("journal/")
    assert key.startswith(f"journal/{cache.domain_id}/{NOW}-")
    entry = parse_journal_entry(store.read_blob(key))
    assert (entry.cache, entry.store_dir, entry.is_public, entry.created_at) == ("main", "/nix/store", True, NOW)
    frames = frames_of(store)
    for told in entry.paths:
        row = await row_of(store, cache, told.store_path)
        assert told.references.split() == [reference.base_name for reference in row.references]
        assert tuple(told.signatures.split()) == row.signatures
        assert (told.deriver, told.system, told.ca) == (row.deriver, row.system, row.ca)
        contents = decode_all(rebuild_file(entry, told.nar_hash, frames))
        assert hashlib.sha256(contents).digest() == told.nar_hash == row.nar_hash
    (told_external,) = entry.externals
    assert (told_external.store_path, told_external.upstream) == (evidence.store_path, "https://up.example")
    assert UPSTREAM.public_key.verify(text_of(evidence), Signature.parse(told_external.signature))


async def hide(store: Store, cache: CacheRow, *base_names: str) -> None:
    parts = [base_name[:32] for base_name in base_names]
    same = (path.c.cache_id == cache.id) & path.c.hash_part.in_(parts)
    await store.database.write(lambda connection: connection.execute(update(path).where(same).values(hidden_at=NOW)))


async def test_push_of_what_refers_to_hidden_paths_restores_them(store: Store, cache: CacheRow) -> None:
    await publish(store, cache, path_body(LIB, LIB_NAR), path_body(APP, APP_NAR, [APP, LIB]))
    await hide(store, cache, LIB, APP)
    await publish(store, cache, path_body(TOOL, LIB_NAR, [APP]))
    assert await visible(store, cache, TOOL, APP, LIB) == [TOOL, APP, LIB]


async def test_hidden_paths_whose_closure_is_not_whole_stay_hidden(store: Store, cache: CacheRow) -> None:
    await publish(store, cache, path_body(LIB, LIB_NAR), path_body(APP, APP_NAR, [LIB]))
    await hide(store, cache, LIB, APP)
    gone = (path.c.cache_id == cache.id) & (path.c.hash_part == LIB[:32])
    await store.database.write(lambda connection: connection.execute(delete(path).where(gone)))
    await assert_refused(store, cache, path_body(TOOL, LIB_NAR, [APP]), f"reference {APP} is neither here")
    assert await visible(store, cache, APP) == []


async def test_push_of_a_hidden_path_with_what_refers_to_it_shows_both(store: Store, cache: CacheRow) -> None:
    lib, app = path_body(LIB, LIB_NAR), path_body(APP, APP_NAR, [LIB])
    await publish(store, cache, lib, app)
    await hide(store, cache, LIB, APP)
    answer = await publish(store, cache, path_body(TOOL, LIB_NAR, [APP]), lib)
    assert answer.published == [TOOL, LIB]
    assert await visible(store, cache, TOOL, APP, LIB) == [TOOL, APP, LIB]


async def test_whatever_becomes_visible_gets_a_new_generation(store: Store, cache: CacheRow) -> None:
    def generation(connection: Connection, base_name: str) -> int:
        same = (path.c.cache_id == cache.id) & (path.c.hash_part == base_name[:32])
        return connection.execute(select(path.c.generation).where(same)).scalar_one()

    await publish(store, cache, path_body(LIB, LIB_NAR))
    first = await store.database.read(lambda connection: generation(connection, LIB))
    await hide(store, cache, LIB)
    await publish(store, cache, path_body(APP, APP_NAR, [LIB]))
    restored = await store.database.read(lambda connection: generation(connection, LIB))
    assert 0 < first < restored == await store.database.read(lambda connection: generation(connection, APP))


async def test_asking_what_is_missing_counts_as_a_use_of_what_is_there(store: Store, cache: CacheRow) -> None:
    await publish(store, cache, path_body(LIB, LIB_NAR))
    assert await visible(store, cache, LIB, APP) == [LIB]
    assert store.uses == [((await row_of(store, cache, LIB)).id, NOW)]


async def test_push_of_what_refers_to_a_damaged_path_does_not_bring_that_back(store: Store, cache: CacheRow) -> None:
    await publish(store, cache, path_body(LIB, LIB_NAR), path_body(APP, APP_NAR, [LIB]))
    await hide(store, cache, LIB, APP)
    same = path.c.hash_part == LIB[:32]
    damaged = update(path).where(same).values(hidden_because=UNREADABLE)
    await store.database.write(lambda connection: connection.execute(damaged) and None)
    await assert_refused(store, cache, path_body(TOOL, LIB_NAR, [APP]), f"reference {APP} is neither here")
    assert await visible(store, cache, LIB, APP) == []


async def test_path_whose_nar_was_found_damaged_is_refused_until_it_is_sent_again(
    store: Store, cache: CacheRow
) -> None:
    identity = identity_of(cut(LIB_NAR)[0])
    damaged = update(chunk).where(chunk.c.identity == identity).values(quarantined_at=NOW)
    await store.database.write(lambda connection: connection.execute(damaged) and None)
    await assert_refused(store, cache, path_body(LIB, LIB_NAR), "its NAR was found damaged; send it again")
    await store.push(cache, (LIB, LIB_NAR, []))
    assert await visible(store, cache, LIB) == [LIB]

"""Publishing through the services, from NARs to visible paths."""

import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from backports.zstd import decompress

from icehouse.api.publish import MissingRequest
from icehouse.nix.nar_write import Regular, write_nar
from tests.services.publishing import Store

HASH_A = "a" * 32
HASH_B = "b" * 32


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    opened = Store.open(tmp_path)
    yield opened
    await opened.close()


def nar_of(contents: bytes) -> bytes:
    return b"".join(write_nar(Regular(contents)))


async def test_published_path_is_no_longer_missing_and_downloads_as_it_was(store: Store) -> None:
    cache = await store.create_cache("main")
    big = random.Random(1).randbytes(3_000_000)
    script = nar_of(b"#!/nix/store/" + HASH_A.encode() + b"-lib/bin/sh\n" + big)
    await store.push(cache, (f"{HASH_A}-lib", nar_of(big), []), (f"{HASH_B}-app", script, [f"{HASH_A}-lib"]))
    answer = await store.publisher.find_missing(cache, MissingRequest([HASH_A, HASH_B, "c" * 32]))
    assert answer.missing == ["c" * 32]
    assert decompress(await store.download(cache, script)) == script

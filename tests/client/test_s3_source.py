"""A bucket is read and listed as Nix reads it, with the credentials of the environment."""

from collections.abc import Generator

import pytest

from icehouse.client.nar_sources import open_source, read_small
from icehouse.client.s3_source import S3Source
from icehouse.errors import Denied, InvalidFormat, NotFound, Unavailable
from tests.s3_bucket import CREDENTIALS, Bucket, serve_bucket

PART = "0123456789abcdfghijklmnpqrsvwxy"


@pytest.fixture
def bucket() -> Generator[Bucket]:
    with serve_bucket() as served:
        yield served


async def test_files_are_read_with_the_credentials_of_the_environment(bucket: Bucket) -> None:
    bucket.objects = {"nix-cache-info": b"StoreDir: /nix/store\n", "nar/x.nar": bytes(5_000_000)}
    source = S3Source.open(bucket.url(), CREDENTIALS)
    assert await read_small(source, "nix-cache-info", 1000) == b"StoreDir: /nix/store\n"
    assert await read_small(source, "nar/x.nar", 6_000_000) == bytes(5_000_000)
    assert set(bucket.signed_by) == {"AKIDEXAMPLE"}
    with pytest.raises(NotFound, match="s3://bucket/absent is not there"):
        await read_small(source, "absent", 1000)


async def test_all_pages_of_a_bucket_are_listed_and_only_narinfos_count(bucket: Bucket) -> None:
    narinfos = [f"{PART}{letter}" for letter in "abcdf"]
    bucket.objects = {f"{each}.narinfo": b"" for each in narinfos}
    bucket.objects |= {"nar/1.nar": b"", f"old/{PART}z.narinfo": b"", "nix-cache-info": b"", "x.narinfo": b""}
    assert await S3Source.open(bucket.url(), CREDENTIALS).list_hash_parts() == narinfos
    assert await S3Source.open(bucket.url("/old/"), CREDENTIALS).list_hash_parts() == [f"{PART}z"]


async def test_a_public_bucket_needs_no_credentials_and_a_private_one_says_so(bucket: Bucket) -> None:
    bucket.objects = {"nix-cache-info": b"x"}
    with pytest.raises(Denied, match=r"may not be read with the credentials of the environment \(\$AWS_…\)"):
        await read_small(S3Source.open(bucket.url(), {}), "nix-cache-info", 10)
    with pytest.raises(Denied):
        await S3Source.open(bucket.url(), {}).list_hash_parts()
    bucket.is_public = True
    assert await read_small(S3Source.open(bucket.url(), {}), "nix-cache-info", 10) == b"x"
    assert set(bucket.signed_by) == {None}


async def test_an_address_that_is_wrong_or_leads_nowhere_is_told() -> None:
    for text in ("s3://", "s3://bucket?profile=x", "s3://bucket?compression=xz"):
        with pytest.raises(InvalidFormat, match="expected s3://BUCKET"):
            S3Source.open(text, {})
    async with open_source("s3://bucket?endpoint=127.0.0.1:9&scheme=http", CREDENTIALS) as source:
        with pytest.raises(Unavailable, match="s3://bucket/x cannot be read") as raised:
            await read_small(source, "x", 10)
        assert "\n" not in str(raised.value)
        with pytest.raises(InvalidFormat, match="leads out of that cache"):
            await read_small(source, "../x", 10)

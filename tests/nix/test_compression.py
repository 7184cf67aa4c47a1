from __future__ import annotations

import pytest

from icehouse.errors import InvalidFormat, Unsupported
from icehouse.nix.compression import MAGIC_BYTES, Compression, find_compression, parse_compression
from icehouse.nix.nar_write import Regular, write_nar

NAR = b"".join(write_nar(Regular(b"contents")))


@pytest.mark.parametrize("compression", Compression, ids=lambda compression: compression.value)
def test_a_narinfo_names_a_compression_by_its_value(compression: Compression) -> None:
    assert parse_compression(compression.value) is compression


@pytest.mark.parametrize("text", ["lrzip", "grzip", "lzop", "compress", "lzma", "", "XZ", "zst"])
def test_another_compression_is_refused_and_the_accepted_ones_are_named(text: str) -> None:
    with pytest.raises(Unsupported, match="expected one of none, gzip, bzip2, xz, zstd, br, lzip, lz4"):
        parse_compression(text)


@pytest.mark.parametrize(
    ("compression", "extension"),
    [("none", ""), ("gzip", ""), ("bzip2", ".bz2"), ("xz", ".xz"), ("zstd", ".zst"), ("br", ".br"), ("lz4", ".lz4")],
)
def test_extensions_are_those_that_nix_writes(compression: str, extension: str) -> None:
    assert Compression(compression).extension == extension


@pytest.mark.parametrize("compression", [c for c in Compression if c.extension], ids=lambda c: c.value)
def test_the_end_of_a_file_name_tells_the_compression_whatever_the_file_holds(compression: Compression) -> None:
    assert find_compression(f"abc.nar{compression.extension}", NAR) is compression


@pytest.mark.parametrize(
    ("first_bytes", "compression"),
    [(NAR, Compression.NONE), (NAR[:MAGIC_BYTES], Compression.NONE), (b"\x1f\x8b\x08\0", Compression.GZIP)],
)
def test_contents_tell_the_compression_where_the_name_does_not(first_bytes: bytes, compression: Compression) -> None:
    assert find_compression("abc.nar", first_bytes) is compression


@pytest.mark.parametrize(
    ("first_bytes", "name"),
    [
        (b"LRZI\0\x06", "lrzip"),
        (b"\x89LZO\0\r\n\x1a\n", "lzop"),
        (b"\x1f\x9d\x90", "compress"),
        (b"GRZipII\0\x02\x04:)", "grzip"),
        (b"\x5d\0\0\x80\0", "lzma"),
    ],
)
def test_contents_of_a_compression_that_is_not_read_are_refused_by_its_name(first_bytes: bytes, name: str) -> None:
    with pytest.raises(Unsupported, match=f"'{name}' is not read here"):
        find_compression("abc.nar", first_bytes)


@pytest.mark.parametrize("first_bytes", [b"", b"\0", b"<html>", NAR[: MAGIC_BYTES - 1], b"\xfd7zXZ\0", b"\x1f\x8b"])
def test_other_contents_under_a_name_that_does_not_tell_are_refused(first_bytes: bytes) -> None:
    with pytest.raises(InvalidFormat, match=r"expected a NAR, gzip, or a name that ends with one of \.bz2"):
        find_compression("abc.nar", first_bytes)

from __future__ import annotations

import json
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from icehouse.errors import InvalidFormat
from icehouse.nix.hashes import HashAlgorithm, NixHash, decode_base64, parse_sha256, render_sha256
from tests.nix.vectors import VECTORS

HASHES = cast("list[dict[str, str]]", json.loads((VECTORS / "hashes.json").read_text()))
ZERO = NixHash(HashAlgorithm.SHA256, bytes(32))


@pytest.mark.parametrize("vector", HASHES, ids=lambda v: f"{v['algorithm']} {v['file']}")
def test_every_form_that_nix_prints_is_read_and_printed_alike(vector: dict[str, str]) -> None:
    algorithm = HashAlgorithm(vector["algorithm"])
    expected = NixHash(algorithm, bytes.fromhex(vector["hex"]))
    base64 = vector["sri"].partition("-")[2]
    forms = [
        f"{algorithm.value}:{digest}" for digest in (vector["hex"], vector["hex"].upper(), vector["nix32"], base64)
    ]
    assert [NixHash.parse(form) for form in [*forms, vector["sri"]]] == [expected] * 5
    assert expected.hex() == f"{algorithm.value}:{vector['hex']}"
    assert expected.nix32() == f"{algorithm.value}:{vector['nix32']}"
    assert expected.sri() == vector["sri"]


@given(st.binary(min_size=32, max_size=32))
def test_a_rendered_sha256_is_read_back(digest: bytes) -> None:
    assert parse_sha256(render_sha256(digest)) == digest


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("0" * 64, "has no algorithm"),
        ("", "has no algorithm"),
        ("sha256:", "has 0 characters: expected 64 .* 52 .* or 44"),
        ("sha256:" + "0" * 63, "has 63 characters"),
        ("sha256:" + "0" * 65, "has 65 characters"),
        ("sha256:" + "g" * 64, "is not hexadecimal"),
        ("sha256:" + "e" * 52, "not in its alphabet"),
        ("SHA256:" + "0" * 64, "'SHA256' is not known"),
        ("blake3:" + "0" * 64, "'blake3' is not known: expected one of md5, sha1, sha256, sha512"),
        ("sha256-" + "0" * 64, "has 64 characters"),
        ("sha256:" + "!" * 43 + "=", "is not base64"),
        ("sha256:" + "A" * 44, "has 33 bytes"),
        ("sha256:" + "A" * 42 + "B=", "bits set that stand for nothing"),
        ("sha256:" + "A" * 40 + "====", "has 30 bytes"),
        (" sha256:" + "0" * 64, "is not known"),
    ],
)
def test_what_is_no_hash_is_refused(text: str, complaint: str) -> None:
    with pytest.raises(InvalidFormat, match=complaint):
        NixHash.parse(text)


@pytest.mark.parametrize("text", [f"sha1:{'0' * 40}", f"sha512:{'0' * 128}"])
def test_a_hash_of_another_algorithm_is_no_sha256(text: str) -> None:
    with pytest.raises(InvalidFormat, match="expected sha256"):
        parse_sha256(text)


def test_a_digest_of_the_wrong_length_makes_no_hash() -> None:
    with pytest.raises(InvalidFormat, match="20 bytes is not sha256: expected 32"):
        NixHash(HashAlgorithm.SHA256, bytes(20))


def test_base64_without_its_padding_is_refused() -> None:
    with pytest.raises(InvalidFormat, match="is not base64"):
        decode_base64("A" * 43, 32, what="a key")


def test_a_huge_value_is_not_repeated_in_the_message() -> None:
    with pytest.raises(InvalidFormat) as caught:
        NixHash.parse("sha256:" + "x" * 1_000_000)
    assert len(str(caught.value)) < 300

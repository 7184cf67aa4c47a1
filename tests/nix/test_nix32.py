from __future__ import annotations

import json
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from icehouse.errors import InvalidFormat
from icehouse.nix import nix32
from tests.nix.vectors import VECTORS

HASHES = cast("list[dict[str, str]]", json.loads((VECTORS / "hashes.json").read_text()))


@pytest.mark.parametrize("vector", HASHES, ids=lambda v: f"{v['algorithm']} {v['file']}")
def test_digests_are_printed_and_read_as_nix_does(vector: dict[str, str]) -> None:
    digest = bytes.fromhex(vector["hex"])
    assert nix32.encode(digest) == vector["nix32"]
    assert nix32.decode(vector["nix32"], len(digest)) == digest


@given(st.binary(max_size=70))
def test_any_bytes_come_back(data: bytes) -> None:
    text = nix32.encode(data)
    assert len(text) == nix32.encoded_length(len(data))
    assert nix32.decode(text, len(data)) == data


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("0" * 51, "expected 52 characters"),
        ("0" * 53, "expected 52 characters"),
        ("e" + "0" * 51, "'e' is not in its alphabet"),
        ("0" * 30 + "U" + "0" * 21, "'U' is not in its alphabet"),
        ("0" * 51 + "²", "'²' is not in its alphabet"),
        ("0" * 20 + "_" + "0" * 31, "'_' is not in its alphabet"),
        (" " + "0" * 51, "' ' is not in its alphabet"),
        ("2" + "0" * 51, "the first character is too high"),
        ("z" * 52, "the first character is too high"),
    ],
)
def test_text_that_is_not_32_bytes_of_nix32_is_refused(text: str, complaint: str) -> None:
    with pytest.raises(InvalidFormat, match=complaint):
        nix32.decode(text, 32)


@given(st.text(min_size=52, max_size=52))
def test_other_text_of_the_right_length_is_refused_or_comes_back_the_same(text: str) -> None:
    try:
        data = nix32.decode(text, 32)
    except InvalidFormat:
        return
    assert nix32.encode(data) == text

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from icehouse.errors import InvalidFormat
from icehouse.rules.varints import VarintReader, append_ascending, append_varint, encode_varints

MOST = 2**63 - 1


@pytest.mark.parametrize(
    ("value", "encoding"),
    [(0, "00"), (1, "01"), (127, "7f"), (128, "8001"), (300, "ac02"), (16_384, "808001"), (MOST, "ff" * 8 + "7f")],
)
def test_integers_are_leb128(value: int, encoding: str) -> None:
    assert encode_varints([value]).hex() == encoding
    reader = VarintReader(bytes.fromhex(encoding), "test")
    assert reader.varint(MOST) == value
    reader.finish()


@given(st.lists(st.integers(0, MOST)))
def test_integers_survive(values: list[int]) -> None:
    reader = VarintReader(encode_varints(values), "test")
    assert [reader.varint(MOST) for _ in values] == values
    reader.finish()


@given(st.binary(max_size=12))
def test_each_integer_has_one_encoding(data: bytes) -> None:
    reader = VarintReader(data, "test")
    try:
        value = reader.varint(MOST)
    except InvalidFormat:
        assert reader.offset == 0
        return
    assert encode_varints([value]) == data[: reader.offset]


@pytest.mark.parametrize(
    ("encoding", "message"),
    [
        ("", "cut off"),
        ("80", "cut off"),
        ("ff" * 8, "cut off"),
        ("8000", "shortest form"),
        ("ff8000", "shortest form"),
        ("ff" * 9, "over 63 bits"),
        ("ff" * 9 + "01", "over 63 bits"),
        ("ff" * 100_000, "over 63 bits"),
    ],
)
def test_broken_integer_is_refused(encoding: str, message: str) -> None:
    with pytest.raises(InvalidFormat, match=f"test, byte 0: .*{message}"):
        VarintReader(bytes.fromhex(encoding), "test").varint(MOST)


def test_integer_over_its_limit_is_refused() -> None:
    assert VarintReader(b"\x05", "test").varint(5) == 5
    with pytest.raises(InvalidFormat, match="5 is over the limit of 4"):
        VarintReader(b"\x05", "test").varint(4)


@given(st.lists(st.integers(0, 2**40)), st.integers(0, 50))
def test_ascending_integers_survive(distances: list[int], step: int) -> None:
    values: list[int] = []
    for distance in distances:
        values.append((values[-1] + step if values else 0) + distance)
    out = bytearray()
    append_ascending(out, values)
    reader = VarintReader(bytes(out), "test")
    assert reader.ascending(len(values), step, MOST) == tuple(values)
    reader.finish()


@pytest.mark.parametrize(
    ("encoded", "message"),
    [
        ([5, 31], "31 is less than 32"),
        ([5, 0], "0 is less than 32"),
        ([70, 31], "31 is less than 32"),
        ([5, 96], "101 is over the limit of 100"),
        ([101, 32], "101 is over the limit of 100"),
        ([5], "cut off"),
    ],
)
def test_integers_that_do_not_ascend_are_refused(encoded: list[int], message: str) -> None:
    with pytest.raises(InvalidFormat, match=message):
        VarintReader(encode_varints(encoded), "test").ascending(2, 32, 100)


def test_bytes_are_taken_only_where_they_are() -> None:
    reader = VarintReader(memoryview(b"abcdef"), "test")
    assert reader.take(4) == b"abcd"
    assert reader.remaining == 2
    with pytest.raises(InvalidFormat, match="byte 4: 3 bytes were expected, 2 are left"):
        reader.take(3)
    with pytest.raises(InvalidFormat, match="byte 4: 2 bytes too many"):
        reader.finish()


def test_integers_are_appended() -> None:
    out = bytearray(b"x")
    append_varint(out, 200)
    assert out == b"x\xc8\x01"

import pytest
from hypothesis import given
from hypothesis import strategies as st

from icehouse.http.ranges import ByteRange, Unsatisfiable, select_range

SIZES = st.integers(0, 40)
NUMBERS = st.integers(0, 50)


def bytes_of(header: str, data: bytes) -> bytes | None:
    part = select_range(header.encode(), len(data))
    return None if part is None else data[part.start : part.stop]


@given(SIZES, NUMBERS, NUMBERS)
def test_from_one_place_to_another_gives_those_bytes_that_are_there(size: int, first: int, last: int) -> None:
    data = bytes(range(size))
    header = f"bytes={first}-{last}"
    if last < first:
        assert bytes_of(header, data) is None
    elif first >= size:
        with pytest.raises(Unsatisfiable):
            bytes_of(header, data)
    else:
        assert bytes_of(header, data) == data[first : last + 1]


@given(SIZES, NUMBERS)
def test_from_one_place_on_gives_the_rest(size: int, first: int) -> None:
    data = bytes(range(size))
    if first >= size:
        with pytest.raises(Unsatisfiable):
            bytes_of(f"bytes={first}-", data)
    else:
        assert bytes_of(f"bytes={first}-", data) == data[first:]


@given(SIZES, NUMBERS)
def test_a_suffix_gives_the_last_bytes(size: int, length: int) -> None:
    data = bytes(range(size))
    if length == 0 or size == 0:
        with pytest.raises(Unsatisfiable):
            bytes_of(f"bytes=-{length}", data)
    else:
        assert bytes_of(f"bytes=-{length}", data) == data[-length:]


@pytest.mark.parametrize(
    "header",
    [
        "",
        "bytes",
        "bytes=",
        "bytes=-",
        "bytes=a-b",
        "bytes=1-2,4-5",
        "bytes=1",
        "bytes=--1",
        "bytes=+1-2",
        "bytes=0x1-2",
        "bytes =1-2",
        "bits=1-2",
        "bytes=1-2;q=1",
        "bytes=99999999999999999999-",
        "bytes=1-2\n",
    ],
)
def test_what_is_malformed_or_asks_for_several_ranges_is_ignored(header: str) -> None:
    assert select_range(header.encode(), 10) is None


def test_without_a_header_the_whole_file_is_meant() -> None:
    assert select_range(None, 10) is None


def test_the_unit_is_read_in_any_case() -> None:
    assert select_range(b"Bytes=2-3", 10) == ByteRange(2, 4)

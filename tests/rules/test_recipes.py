from __future__ import annotations

import tracemalloc
from array import array

import pytest
from hypothesis import given
from hypothesis import strategies as st

from icehouse.errors import InvalidFormat, TooLarge
from icehouse.rules.recipes import (
    MAX_RECIPE_BYTES,
    Recipe,
    Run,
    make_recipe,
    merge_runs,
    parse_recipe,
    render_recipe,
)
from icehouse.rules.varints import encode_varints
from tests.rules.samples import store_hashes

HASHES = store_hashes("recipes", 5)
MOST = 10**9


def parse(data: bytes, max_chunks: int = MOST) -> Recipe:
    return parse_recipe(data, max_chunks=max_chunks)


@given(st.lists(st.integers(1, 30)), st.lists(st.sampled_from(HASHES)))
def test_recipe_names_each_chunk_and_each_store_hash_in_order(numbers: list[int], hashes: list[bytes]) -> None:
    recipe = make_recipe(numbers, hashes)
    assert [number for run in recipe.runs for number in range(run.first, run.first + run.count)] == numbers
    assert [recipe.hashes[index] for index in recipe.patches] == hashes
    assert recipe.chunk_count == len(numbers)
    assert recipe.hashes == tuple(dict.fromkeys(hashes))
    assert parse(render_recipe(recipe)) == recipe


@given(st.lists(st.builds(Run, st.integers(1, 30), st.integers(1, 5))))
def test_runs_are_merged_to_those_that_their_chunks_have(runs: list[Run]) -> None:
    numbers = [number for run in runs for number in range(run.first, run.first + run.count)]
    assert merge_runs(runs) == make_recipe(numbers, []).runs


def test_consecutive_numbers_are_one_run() -> None:
    recipe = make_recipe([7, 8, 9, 9, 3, 4, 2**61], [])
    assert recipe.runs == (Run(7, 3), Run(9, 1), Run(3, 2), Run(2**61, 1))


@given(st.binary(max_size=200), st.integers(0, 100))
def test_arbitrary_bytes_raise_nothing_but_our_error(data: bytes, max_chunks: int) -> None:
    for candidate in (data, b"\x01" + data, b"\x01\x01\x05\x01\x01" + HASHES[0] + data):
        try:
            recipe = parse(candidate, max_chunks)
        except InvalidFormat:
            continue
        assert recipe.chunk_count <= max_chunks
        assert render_recipe(recipe) == candidate


@given(st.data())
def test_damaged_recipe_is_refused_or_another_recipe(data: st.DataObject) -> None:
    recipe = make_recipe(data.draw(st.lists(st.integers(1, 500))), data.draw(st.lists(st.sampled_from(HASHES))))
    body = bytearray(render_recipe(recipe))
    for _ in range(data.draw(st.integers(1, 3))):
        body[data.draw(st.integers(0, len(body) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    try:
        parsed = parse(bytes(body))
    except InvalidFormat:
        return
    assert render_recipe(parsed) == body


def test_recipe_is_refused_at_every_truncation() -> None:
    body = render_recipe(make_recipe([1, 2, 9, 300], [HASHES[0], HASHES[1], HASHES[0]]))
    for size in range(len(body)):
        with pytest.raises(InvalidFormat):
            parse(body[:size])
    with pytest.raises(InvalidFormat, match="1 bytes too many"):
        parse(body + b"\0")


ONE_RUN = encode_varints([1, 1, 5, 1])


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (encode_varints([0, 0, 0, 0]), "version 0; this program knows version 1"),
        (encode_varints([2, 0, 0, 0]), "version 2"),
        (encode_varints([1, 1, 0, 1, 0, 0]), "a run of 1 chunks from number 0"),
        (encode_varints([1, 1, 5, 0, 0, 0]), "a run of 0 chunks"),
        (encode_varints([1, 1, 2**62 + 1, 1, 0, 0]), "over the limit"),
        (encode_varints([1, 100, 5, 1, 0, 0]), "over the limit"),
        (ONE_RUN + encode_varints([1]) + HASHES[0][:31] + b"e" + encode_varints([1, 0]), "letter outside Nix32"),
        (ONE_RUN + encode_varints([1]) + HASHES[0].upper() + encode_varints([1, 0]), "letter outside Nix32"),
        (ONE_RUN + encode_varints([2]) + HASHES[0] * 2 + encode_varints([1, 0]), "listed twice"),
        (ONE_RUN + encode_varints([1]) + HASHES[0] + encode_varints([1, 1]), "1 is over the limit of 0"),
        (ONE_RUN + encode_varints([0, 1, 0]), "1 patches and no store hash"),
        (ONE_RUN + encode_varints([1]) + HASHES[0] + encode_varints([3, 0]), "3 is over the limit of 2"),
        (ONE_RUN + encode_varints([200]) + HASHES[0], "200 is over the limit"),
        (ONE_RUN + encode_varints([2]) + HASHES[0], "64 bytes were expected"),
    ],
)
def test_recipe_that_cannot_be_is_refused(body: bytes, message: str) -> None:
    with pytest.raises(InvalidFormat, match=message):
        parse(body)


@pytest.mark.parametrize("count", [11, 2**40, 2**62])
def test_few_bytes_cannot_name_more_chunks_than_the_nar_has(count: int) -> None:
    for runs in ([5, count], [5, 10, 5, count - 10]):
        body = encode_varints([1, len(runs) // 2, *runs, 0, 0])
        with pytest.raises(InvalidFormat, match="at most 10 chunks fit this NAR"):
            parse(body, 10)


def test_recipe_over_its_size_is_refused_before_it_is_read() -> None:
    with pytest.raises(TooLarge, match=f"{MAX_RECIPE_BYTES + 1} bytes"):
        parse(bytes(MAX_RECIPE_BYTES + 1))


def test_counts_that_lie_cost_no_memory() -> None:
    tracemalloc.start()
    try:
        for body in (
            encode_varints([1, 2**62]),
            ONE_RUN + encode_varints([2**62]),
            ONE_RUN + encode_varints([1]) + HASHES[0] + encode_varints([2**62]),
        ):
            with pytest.raises(InvalidFormat):
                parse(body)
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()


def test_patch_takes_eight_bytes_of_memory() -> None:
    count = 500_000
    body = ONE_RUN + encode_varints([1]) + HASHES[0] + encode_varints([count]) + bytes(count)
    tracemalloc.start()
    try:
        recipe = parse(body)
        assert tracemalloc.get_traced_memory()[1] < 11 * count
    finally:
        tracemalloc.stop()
    assert recipe.patches == array("L", bytes(8 * count))

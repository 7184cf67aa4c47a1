import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from icehouse.errors import IcehouseError, InvalidFormat, TooLarge
from icehouse.nix.realisation import (
    MAX_REALISATION_BYTES,
    MAX_SIGNATURES,
    RealisationName,
    derive_build_trace,
    merge_realisations,
    parse_realisation,
    render_realisation,
)
from icehouse.nix.store_paths import StorePath

HASH = "sha256:be0e872794b13a5e03a62ee562f732e9fb00b04b8fd37e8dace723cb3f282a79"
BY_HASH = RealisationName.of_hash(f"{HASH}!out")
OUT_PATH = "a9sxpzbwj5l473cvkbrgcsf4chnrq6sk-top"
RESOLVED = "4v621s57s1bg9d65msnndfsp77dby8sq-top.drv"
BY_DERIVATION = RealisationName.of_derivation(RESOLVED, "out")

# What `nix copy` of Nix 2.8 sent for a content-addressed derivation with one input.
UPLOADED = (
    b'{"dependentRealisations":{"sha256:ebd694377dcfa5ea74ad2fa0c33d781a729c78531ad382d9cb882c76329f12ff!out":'
    b'"6xq06fgsjn4qcqgmjqwj7zkzaclqy8zk-base"},"id":"' + HASH.encode() + b'!out",'
    b'"outPath":"a9sxpzbwj5l473cvkbrgcsf4chnrq6sk-top","signatures":[]}'
)


def body(**fields: object) -> bytes:
    return json.dumps({"id": f"{HASH}!out", "outPath": OUT_PATH, **fields}).encode()


def signatures_after(present: list[Any], offered: list[Any]) -> list[Any]:
    merged = merge_realisations(
        parse_realisation(body(signatures=present), BY_HASH), parse_realisation(body(signatures=offered), BY_HASH)
    )
    return json.loads(render_realisation(merged))["signatures"]


def test_upload_of_nix_is_read() -> None:
    parsed = parse_realisation(UPLOADED, BY_HASH)
    assert (parsed.out_path, parsed.signatures) == (StorePath.parse(OUT_PATH), ())
    assert json.loads(render_realisation(parsed)) == json.loads(UPLOADED)


def test_names_give_the_places_of_both_layouts() -> None:
    assert BY_HASH.file_name == f"realisations/{HASH}!out.doi"
    assert BY_DERIVATION.file_name == f"build-trace-v2/{RESOLVED}/out.doi"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "!",
        HASH,
        f"{HASH}!",
        f"{HASH}!a/b",
        f"{HASH}!..",
        f"{HASH.upper()}!out",
        f"{HASH[:-1]}!out",
        f"{HASH.replace('sha256', 'crc32')}!out",
        "sha256:1xga7qa3wjdkhc71mbz9wm36q1nl7z2c95sl9529vindmjnrdn0z!out",
        f"{HASH}!out!out",
    ],
)
def test_a_name_that_is_no_hash_and_output_is_refused(text: str) -> None:
    with pytest.raises(InvalidFormat):
        RealisationName.of_hash(text)


@pytest.mark.parametrize(
    ("derivation", "output"), [(OUT_PATH, "out"), (RESOLVED, ""), (RESOLVED, "a!"), ("x.drv", "out")]
)
def test_a_name_that_is_no_derivation_and_output_is_refused(derivation: str, output: str) -> None:
    with pytest.raises(InvalidFormat):
        RealisationName.of_derivation(derivation, output)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"[]",
        b"null",
        b"{",
        b"\xff",
        b"[" * 60_000,
        b'{"id":' * 9_000,
        b"{}",
        body(outPath=None),
        body(outPath=f"/nix/store/{OUT_PATH}"),
        body(outPath="../x"),
        body(id=f"{HASH}!dev"),
        body(id=None),
        body(signatures="a:b"),
        body(signatures=[1]),
        body(signatures=["no-colon"]),
        body(signatures=[":x"]),
        body(signatures=[{"keyName": "a"}]),
        body(signatures=[{"keyName": "a:b", "sig": "x"}]),
    ],
)
def test_a_malformed_file_is_refused(text: bytes) -> None:
    with pytest.raises(InvalidFormat):
        parse_realisation(text, BY_HASH)


def test_limits_hold() -> None:
    with pytest.raises(TooLarge):
        parse_realisation(body(more="x" * MAX_REALISATION_BYTES), BY_HASH)
    with pytest.raises(TooLarge):
        parse_realisation(body(signatures=[f"k:{n}" for n in range(MAX_SIGNATURES + 1)]), BY_HASH)


def test_file_of_the_newer_layout_need_not_tell_its_name() -> None:
    parsed = parse_realisation(b'{"outPath":"%s"}' % OUT_PATH.encode(), BY_DERIVATION)
    assert parsed.out_path.base_name == OUT_PATH


def test_signatures_are_joined_in_order() -> None:
    assert signatures_after(["a:1", "b:2"], ["c:3", "a:1"]) == ["a:1", "b:2", "c:3"]


def test_signature_keeps_the_shape_in_which_it_came_first() -> None:
    structured = {"keyName": "a", "sig": "1"}
    assert signatures_after([structured], ["a:1", "b:2"]) == [structured, "b:2"]
    assert signatures_after(["a:1"], [structured, {"keyName": "b", "sig": "2"}]) == [
        "a:1",
        {"keyName": "b", "sig": "2"},
    ]


def test_no_more_signatures_are_joined_than_a_file_may_have() -> None:
    present = [f"a:{n}" for n in range(MAX_SIGNATURES)]
    assert signatures_after(present, ["b:1"]) == present


def test_fields_that_are_not_ours_are_kept() -> None:
    present = parse_realisation(body(signatures=[], later={"x": [1, 2.5, None]}), BY_HASH)
    merged = merge_realisations(present, parse_realisation(body(signatures=["a:1"]), BY_HASH))
    assert json.loads(render_realisation(merged))["later"] == {"x": [1, 2.5, None]}


def test_entry_of_the_newer_layout_follows_from_the_deriver() -> None:
    derived = derive_build_trace(BY_HASH, StorePath.parse(OUT_PATH), RESOLVED)
    assert derived == (BY_DERIVATION, b'{"outPath":"%s","signatures":[]}' % OUT_PATH.encode())


@pytest.mark.parametrize(
    ("output", "out_name", "deriver_name"),
    [
        ("dev", "top-dev", "top-dev.drv"),  # there it is the output `out`
        ("out", "top", "other.drv"),
        ("out", "top", "top"),
    ],
)
def test_no_entry_follows_where_the_deriver_has_another_output_of_that_name(
    output: str, out_name: str, deriver_name: str
) -> None:
    name = RealisationName.of_hash(f"{HASH}!{output}")
    assert derive_build_trace(name, StorePath.parse(f"{'a' * 32}-{out_name}"), f"{'b' * 32}-{deriver_name}") is None


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(["id", "outPath", "signatures", "x"]), json_values), st.booleans())
def test_any_file_is_read_or_refused_and_what_is_read_can_be_written(fields: dict[str, Any], is_named: bool) -> None:  # noqa: FBT001
    if is_named:
        fields |= {"id": f"{HASH}!out", "outPath": OUT_PATH}
    try:
        parsed = parse_realisation(json.dumps(fields).encode(), BY_HASH)
    except IcehouseError:
        return
    assert (
        parse_realisation(render_realisation(merge_realisations(parsed, parsed)), BY_HASH).out_path == parsed.out_path
    )

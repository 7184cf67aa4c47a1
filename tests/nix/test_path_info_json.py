from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from icehouse.errors import InvalidFormat
from icehouse.nix.content_address import ContentAddress
from icehouse.nix.hashes import NixHash
from icehouse.nix.narinfo import parse_narinfo
from icehouse.nix.path_info_json import ValidPath, parse_path_info_json
from icehouse.nix.signing import Signature
from icehouse.nix.store_paths import StoreDir, StorePath
from tests.nix.vectors import NARINFOS, VECTORS

HELLO = "wyin0pj1v3vyk9kz1hmsd31pmvk1rsj8-refers-1.0"
TEXT = "jfk7ayq1jslsk8c59bag44drw1fw9qry-plain.txt"
DRV = "0l443fp3vhx1izx04zwnwn9l2c8k7adg-refers-1.0.drv"
UNKNOWN = "00000000000000000000000000000000-unknown"
SRI = "sha256-l1kMp1zOfNoDeAU2Wv2uxyWlSH7pGSHfwNgdblrLBRs="
NIX32 = "sha256:06q5rdd6w7fqq3gj26g9gr4aa9f7mvymldh5g01xlz6fbjkhqncp"
SIG = Signature("cache.example-1", bytes(64))
WHEN = datetime(2026, 11, 22, 20, 0, tzinfo=UTC)

BUILT = ValidPath(
    store_path=StorePath.parse(HELLO),
    nar_hash=NixHash.parse(SRI).digest,
    nar_size=224,
    references=(StorePath.parse(TEXT), StorePath.parse(HELLO)),
    deriver=StorePath.parse(DRV),
    signatures=(SIG,),
    ca=None,
    registration_time=WHEN,
)
ADDED = ValidPath(
    store_path=StorePath.parse(TEXT),
    nar_hash=NixHash.parse(SRI).digest,
    nar_size=128,
    references=(),
    deriver=None,
    signatures=(),
    ca=ContentAddress.parse(f"fixed:r:{NIX32}"),
    registration_time=None,
)


def full(base_name: str) -> str:
    return f"/nix/store/{base_name}"


def built(**changes: object) -> dict[str, Any]:
    return {
        "narHash": SRI,
        "narSize": 224,
        "references": [full(HELLO), full(TEXT)],
        "deriver": full(DRV),
        "signatures": [SIG.render()],
        "registrationTime": int(WHEN.timestamp()),
        "ultimate": True,
        **changes,
    }


ADDED_ENTRY: dict[str, Any] = {"narHash": SRI, "narSize": 128, "references": [], "ca": f"fixed:r:{NIX32}"}
STRUCTURED_ENTRY: dict[str, Any] = {**ADDED_ENTRY, "deriver": None, "registrationTime": None, "signatures": []}
BY_BASE_NAME: dict[str, Any] = {"references": [HELLO, TEXT], "deriver": DRV, "ca": None}

SHAPES: dict[str, object] = {
    "2.3, array with hashes in Nix32": [
        {"path": full(HELLO), **built(narHash=NIX32)},
        {"path": full(TEXT), **ADDED_ENTRY, "narHash": NIX32},
        {"path": full(UNKNOWN), "valid": False},
    ],
    "2.8, array": [
        {"path": full(HELLO), **built()},
        {"path": full(TEXT), **ADDED_ENTRY},
        {"path": full(UNKNOWN), "valid": False},
    ],
    "2.19, object": {full(HELLO): built(), full(TEXT): ADDED_ENTRY, full(UNKNOWN): None},
    "2.23, object with nulls": {
        full(HELLO): built(ca=None),
        full(TEXT): {**STRUCTURED_ENTRY},
        full(UNKNOWN): None,
    },
    "2.33, format 1": {
        full(HELLO): built(ca=None, version=1, storeDir="/nix/store"),
        full(TEXT): {**STRUCTURED_ENTRY, "version": 1, "storeDir": "/nix/store"},
        full(UNKNOWN): None,
    },
    "2.33, format 2": {
        "version": 2,
        "storeDir": "/nix/store",
        "info": {
            HELLO: built(**BY_BASE_NAME),
            TEXT: {**STRUCTURED_ENTRY, "ca": {"method": "nar", "hash": SRI}},
            UNKNOWN: None,
        },
    },
    "2.35, format 3": {
        "version": 3,
        "storeDir": "/nix/store",
        "info": {
            HELLO: built(
                **BY_BASE_NAME,
                signatures=[{"keyName": "cache.example-1", "sig": SIG.render().partition(":")[2]}],
                narHash={"algorithm": "sha256", "format": "base64", "hash": SRI.partition("-")[2]},
            ),
            TEXT: {
                **STRUCTURED_ENTRY,
                "ca": {"method": "nar", "hash": {"algorithm": "sha256", "format": "nix32", "hash": NIX32[7:]}},
            },
            UNKNOWN: None,
        },
    },
}


@pytest.mark.parametrize("document", SHAPES.values(), ids=list(SHAPES))
def test_every_shape_says_the_same(document: object) -> None:
    infos = parse_path_info_json(json.dumps(document))
    assert infos.valid == (BUILT, ADDED)
    assert infos.unknown == (StorePath.parse(UNKNOWN),)


def test_what_nix_printed_agrees_with_the_narinfos_that_it_wrote() -> None:
    infos = parse_path_info_json((VECTORS / "path-info" / "nix-2.8.json").read_bytes())
    narinfos = {info.store_path: info for info in (parse_narinfo(path.read_bytes()) for path in NARINFOS)}
    assert len(infos.valid) == len(narinfos) == 12
    assert infos.unknown == ()
    for valid in infos.valid:
        narinfo = narinfos[valid.store_path]
        assert (valid.nar_hash, valid.nar_size, valid.references) == (
            narinfo.nar_hash,
            narinfo.nar_size,
            narinfo.references,
        )
        assert (valid.deriver, valid.ca) == (narinfo.deriver, narinfo.ca)
        assert valid.registration_time is not None


def test_paths_that_nix_does_not_have_are_told_apart() -> None:
    infos = parse_path_info_json((VECTORS / "path-info" / "nix-2.8-unknown.json").read_bytes())
    assert infos.unknown == (StorePath.parse(UNKNOWN),)
    assert [path.store_path.name for path in infos.valid] == ["refers-1.0"]


@pytest.mark.parametrize("document", [[], {}, {"version": 2, "storeDir": "/nix/store", "info": {}}])
def test_no_paths_are_no_paths(document: object) -> None:
    infos = parse_path_info_json(json.dumps(document))
    assert (infos.valid, infos.unknown) == ((), ())


def test_another_store_directory_is_read_when_it_is_named() -> None:
    text = json.dumps({f"/gnu/store/{TEXT}": ADDED_ENTRY})
    assert parse_path_info_json(text, StoreDir("/gnu/store")).valid == (ADDED,)


def test_text_that_is_no_signature_is_left_behind() -> None:
    text = json.dumps({full(HELLO): built(signatures=["", "nocolon", "key:AAAA", SIG.render(), SIG.render()])})
    assert parse_path_info_json(text).valid[0].signatures == (SIG,)


@pytest.mark.parametrize("method", ["text", "flat", "nar", "git"])
def test_every_method_of_a_structured_content_address_is_read(method: str) -> None:
    info = {TEXT: {**ADDED_ENTRY, "ca": {"method": method, "hash": SRI}}}
    (valid,) = parse_path_info_json(json.dumps({"version": 2, "storeDir": "/nix/store", "info": info})).valid
    prefix = {"text": "text:", "flat": "fixed:", "nar": "fixed:r:", "git": "fixed:git:"}[method]
    assert valid.ca is not None
    assert valid.ca.render() == f"{prefix}{NIX32}"


@pytest.mark.parametrize(
    ("document", "complaint"),
    [
        (3, "expected an array or an object"),
        (["x"], "expected an array of objects that have a path"),
        ([{"valid": False}], "expected an array of objects that have a path"),
        ({full(HELLO): 3}, "expected an object or null"),
        ({"version": 4, "info": {}}, "version 4: expected at most 3"),
        ({"version": 2, "storeDir": "/gnu/store", "info": {}}, "storeDir '/gnu/store': expected /nix/store"),
        ({"version": 2, "info": []}, "info: expected an object"),
        ({f"/gnu/store/{HELLO}": built()}, "is not in the store directory /nix/store"),
        ({HELLO[1:]: built()}, "expected a hash part"),
    ],
)
def test_another_shape_is_refused(document: object, complaint: str) -> None:
    with pytest.raises(InvalidFormat, match=f"nix path-info: .*{complaint}"):
        parse_path_info_json(json.dumps(document))


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"narHash": None}, "narHash: expected a string"),
        ({"narHash": {"algorithm": "sha256"}}, "narHash: expected a string"),
        ({"narHash": "sha1-" + "A" * 27 + "="}, "expected sha256"),
        ({"narSize": 0}, "narSize 0: expected a positive whole number"),
        ({"narSize": None}, "narSize None"),
        ({"narSize": True}, "narSize True"),
        ({"narSize": 1.5}, "narSize 1.5"),
        ({"narSize": 2**63}, "narSize 9223372036854775808"),
        ({"references": None}, "references: expected an array"),
        ({"references": [3]}, "references: expected a string"),
        ({"references": ["x"]}, "expected a hash part"),
        ({"deriver": 3}, "deriver: expected a string"),
        ({"signatures": "x"}, "signatures: expected an array"),
        ({"signatures": [3]}, "signatures: expected a string"),
        ({"signatures": [{"keyName": "x"}]}, "sig: expected a string"),
        ({"ca": 3}, "ca: expected a string"),
        ({"ca": "x"}, "content address 'x'"),
        ({"ca": {"method": "tar", "hash": SRI}}, "ca method 'tar': expected one of text, flat, nar, git"),
        ({"ca": {"method": "nar"}}, "ca hash: expected a string"),
        ({"registrationTime": "x"}, "registrationTime 'x'"),
        ({"registrationTime": 10**30}, "no such time"),
    ],
)
def test_values_that_no_nix_prints_are_refused(changes: dict[str, object], complaint: str) -> None:
    with pytest.raises(InvalidFormat, match=f"nix path-info: '{full(HELLO)}': .*{complaint}"):
        parse_path_info_json(json.dumps({full(HELLO): built(**changes)}))


@pytest.mark.parametrize("text", ["", "{", b"\xff", "[1,]", '["\xff'])
def test_text_that_is_not_json_is_refused(text: str | bytes) -> None:
    with pytest.raises(InvalidFormat, match="not JSON"):
        parse_path_info_json(text)


def test_faults_of_several_paths_are_told_at_once() -> None:
    with pytest.raises(InvalidFormat, match=r"narSize 0.*narSize -1"):
        parse_path_info_json(json.dumps({full(HELLO): built(narSize=0), full(TEXT): built(narSize=-1)}))

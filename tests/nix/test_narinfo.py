from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from icehouse.errors import InvalidFormat
from icehouse.nix import nix32
from icehouse.nix.content_address import ContentAddress, IngestionMethod, fits
from icehouse.nix.hashes import HashAlgorithm, NixHash
from icehouse.nix.narinfo import NarInfo, parse_narinfo, render_narinfo
from icehouse.nix.signing import Signature
from icehouse.nix.store_paths import NIX_STORE, HashPart, StoreDir, StorePath
from tests.nix.vectors import NARINFOS

HASH = "06q5rdd6w7fqq3gj26g9gr4aa9f7mvymldh5g01xlz6fbjkhqncp"
SELF = "wyin0pj1v3vyk9kz1hmsd31pmvk1rsj8-refers-1.0"
TEXT = "jfk7ayq1jslsk8c59bag44drw1fw9qry-plain.txt"
SIG = Signature("cache.example-1", bytes(64)).render()
LINES = {
    "StorePath": f"/nix/store/{SELF}",
    "URL": "nar/x.nar.zst",
    "Compression": "zstd",
    "FileHash": f"sha256:{HASH}",
    "FileSize": "99",
    "NarHash": f"sha256:{HASH}",
    "NarSize": "224",
    "References": f"{TEXT} {SELF}",
    "Deriver": "0l443fp3vhx1izx04zwnwn9l2c8k7adg-refers-1.0.drv",
    "System": "x86_64-linux",
    "Sig": SIG,
    "CA": f"fixed:r:sha256:{HASH}",
}


def text_of(**changes: str | None) -> str:
    """The lines above with some of them changed, or left out where ``None``."""
    return "".join(f"{name}: {value}\n" for name, value in {**LINES, **changes}.items() if value is not None)


@pytest.mark.parametrize("path", NARINFOS, ids=lambda path: path.stem)
def test_what_nix_wrote_is_read_and_rendered_alike(path: Path) -> None:
    assert render_narinfo(parse_narinfo(path.read_bytes())) == path.read_text()


@pytest.mark.parametrize("path", NARINFOS, ids=lambda path: path.stem)
def test_the_content_addresses_that_nix_wrote_fit(path: Path) -> None:
    info = parse_narinfo(path.read_bytes())
    assert info.ca is None or fits(info.ca, info.store_path, info.references, info.store_dir)
    renamed = StorePath(info.store_path.hash_part, info.store_path.name + "x")
    assert info.ca is None or not fits(info.ca, renamed, info.references, info.store_dir)


def test_a_content_address_that_cannot_have_references_does_not_fit_a_path_that_has() -> None:
    ca = ContentAddress(IngestionMethod.FLAT, NixHash(HashAlgorithm.SHA256, bytes(32)))
    path = StorePath.parse(SELF)
    assert not fits(ca, path, [path], NIX_STORE)


def test_every_field_is_read() -> None:
    info = parse_narinfo(text_of())
    assert info == NarInfo(
        store_path=StorePath.parse(SELF),
        store_dir=NIX_STORE,
        url="nar/x.nar.zst",
        compression="zstd",
        file_hash=NixHash(HashAlgorithm.SHA256, nix32.decode(HASH, 32)),
        file_size=99,
        nar_hash=nix32.decode(HASH, 32),
        nar_size=224,
        references=(StorePath.parse(TEXT), StorePath.parse(SELF)),
        deriver=StorePath.parse("0l443fp3vhx1izx04zwnwn9l2c8k7adg-refers-1.0.drv"),
        system="x86_64-linux",
        signatures=(Signature("cache.example-1", bytes(64)),),
        ca=ContentAddress.parse(f"fixed:r:sha256:{HASH}"),
    )
    assert render_narinfo(info) == text_of()


def test_fields_that_may_be_absent_may_be_absent() -> None:
    absent = dict.fromkeys(["Compression", "FileHash", "FileSize", "References", "Deriver", "System", "Sig", "CA"])
    info = parse_narinfo(text_of(**absent))
    assert info.compression == "bzip2"
    assert render_narinfo(info) == (
        f"StorePath: /nix/store/{SELF}\nURL: nar/x.nar.zst\nCompression: bzip2\n"
        f"NarHash: sha256:{HASH}\nNarSize: 224\nReferences: \n"
    )


def test_empty_references_keep_their_space() -> None:
    assert "\nReferences: \n" in render_narinfo(parse_narinfo(text_of(References="")))


@pytest.mark.parametrize(
    ("changes", "attribute", "value"),
    [
        ({"Compression": ""}, "compression", "bzip2"),
        ({"CA": ""}, "ca", None),
        ({"Deriver": "unknown-deriver"}, "deriver", None),
        ({"System": ""}, "system", None),
        ({"FileSize": str(2**63)}, "file_size", 2**63),
        ({"FileSize": "0"}, "file_size", 0),
        ({"FileHash": f"md5:{'0' * 32}"}, "file_hash", NixHash(HashAlgorithm.MD5, bytes(16))),
        ({"NarHash": f"sha256:{'AB' * 32}"}, "nar_hash", b"\xab" * 32),
        ({"NarHash": "sha256-" + "A" * 43 + "="}, "nar_hash", bytes(32)),
        ({"NarHash": "sha256:" + "A" * 43 + "="}, "nar_hash", bytes(32)),
        ({"References": f"  {SELF}   {TEXT} {SELF} "}, "references", (StorePath.parse(TEXT), StorePath.parse(SELF))),
        ({"StorePath": f"/gnu/store/{SELF}"}, "store_dir", StoreDir("/gnu/store")),
        ({"URL": "https://elsewhere.example/a?x=1&token=a%20b"}, "url", "https://elsewhere.example/a?x=1&token=a%20b"),
        ({"Provenance": '{"type":"x"}'}, "extra", (("Provenance", '{"type":"x"}'),)),
        ({"system": "lower"}, "extra", (("system", "lower"),)),
    ],
)
def test_what_nix_takes_is_taken(changes: dict[str, str], attribute: str, value: object) -> None:
    assert getattr(parse_narinfo(text_of(**changes)), attribute) == value


def test_fields_may_come_in_any_order() -> None:
    lines = text_of().splitlines(keepends=True)
    assert parse_narinfo("".join(reversed(lines))) == parse_narinfo(text_of())


def test_the_last_of_two_urls_is_taken() -> None:
    assert parse_narinfo(text_of() + "URL: nar/second\n").url == "nar/second"


def test_a_tab_after_the_colon_does_for_a_space() -> None:
    assert parse_narinfo(text_of().replace("URL: ", "URL:\t")).url == "nar/x.nar.zst"


def test_signatures_keep_their_order_and_lose_doubles() -> None:
    more = [Signature(name, bytes(64)) for name in ("z-1", "a-1", "z-1")]
    info = parse_narinfo(text_of() + "".join(f"Sig: {signature.render()}\n" for signature in more))
    assert [signature.key_name for signature in info.signatures] == ["cache.example-1", "z-1", "a-1"]


def test_unknown_fields_are_kept_at_the_end() -> None:
    text = f"Zebra: 1\n{text_of()}Apple: : x\nZebra: 2\n"
    info = parse_narinfo(text)
    assert info.extra == (("Zebra", "1"), ("Apple", ": x"), ("Zebra", "2"))
    assert render_narinfo(info).endswith("Zebra: 1\nApple: : x\nZebra: 2\n")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "has no StorePath; has no URL; has no NarHash; has no NarSize"),
        (text_of()[:-1], "line 12: expected a newline at its end"),
        (text_of().replace("\n", "\r\n"), r"line 1: StorePath: control character '\\r'"),
        ("\n" + text_of(), "line 1: '': expected <field>: <value>"),
        (text_of() + "\n", "line 13: ''"),
        ("# comment\n" + text_of(), "line 1: '# comment': expected <field>: <value>"),
        ("\ufeff" + text_of(), "has no StorePath"),
        (text_of().replace("URL: ", "URL:"), "line 2: URL: expected a space after the colon"),
        (text_of(References="").replace("References: ", "References:"), "line 8: References: expected a space"),
        (text_of(URL=" nar/x").replace("StorePath: ", "StorePath:  "), "line 1: StorePath: store directory ' /nix"),
        (text_of(References=None) + f"References: {TEXT}\nReferences: {SELF}\n", "References: stands there twice"),
        (text_of() + f"CA: fixed:r:sha256:{HASH}\n", "line 13: CA: stands there twice"),
        (text_of().replace("URL: ", "URL: \0"), "line 2: URL: control character"),
        (": x\n" + text_of(), "line 1: ': x': expected <field>: <value>"),
    ],
    ids=range(14),
)
def test_text_that_nix_refuses_or_misreads_is_refused(text: str, complaint: str) -> None:
    with pytest.raises(InvalidFormat, match=complaint):
        parse_narinfo(text)


@pytest.mark.parametrize(
    ("name", "value", "complaint"),
    [
        ("StorePath", SELF, "store directory ''"),
        ("StorePath", f"nix/store/{SELF}", "store directory 'nix/store'"),
        ("StorePath", f"/nix/store/{SELF}/bin", "store directory|hash part"),
        ("StorePath", "", "store directory ''"),
        ("URL", "", "expected a URL"),
        ("Compression", "zst", "'zst': expected one of br, bzip2"),
        ("FileHash", "", "has no algorithm"),
        ("FileHash", "sha256:x", "has 1 characters"),
        ("FileSize", "", "'' is not a decimal number"),
        ("FileSize", "-1", "'-1' is not a decimal number"),
        ("FileSize", "1k", "'1k' is not a decimal number"),
        ("FileSize", "²", "'²' is not a decimal number"),
        ("FileSize", str(2**64), "expected 0 to"),
        ("FileSize", "9" * 5000, "is not a decimal number"),
        ("NarHash", HASH, "has no algorithm"),
        ("NarHash", f"sha512:{'0' * 128}", "expected sha256"),
        ("NarSize", "0", "0: expected 1 to"),
        ("NarSize", str(2**63), "expected 1 to"),
        ("NarSize", "12k", "'12k' is not a decimal number"),
        ("NarSize", " 12", "' 12' is not a decimal number"),
        ("References", f"/nix/store/{SELF}", "expected a hash part"),
        ("References", f"{SELF}\t{TEXT}", "name 'refers-1.0"),
        ("Deriver", "", "expected a hash part"),
        ("Deriver", f"/nix/store/{SELF}", "expected a hash part"),
        ("Sig", "", "expected <key name>:<base64>"),
        ("Sig", "nocolon", "expected <key name>:<base64>"),
        ("Sig", "key-1:!!!!", "is not base64"),
        ("Sig", "key-1:AAAA", "has 3 bytes: expected 64"),
        ("CA", "fixed:x", "expected text:sha256"),
        ("CA", "fixed:sha256-" + "A" * 43 + "=", "expected text:sha256"),
    ],
)
def test_value_that_nix_refuses_is_refused_with_its_line(name: str, value: str, complaint: str) -> None:
    line = list(LINES).index(name) + 1
    with pytest.raises(InvalidFormat, match=f"narinfo line {line}: {name}: .*({complaint})"):
        parse_narinfo(text_of(**{name: value}))


def test_bytes_that_are_not_utf_8_are_refused() -> None:
    with pytest.raises(InvalidFormat, match="narinfo byte 5: not UTF-8"):
        parse_narinfo(b"URL: \xff\n")


def test_all_faults_are_told_at_once() -> None:
    with pytest.raises(InvalidFormat) as caught:
        parse_narinfo(text_of(NarSize="x", FileSize="y", URL=None))
    message = str(caught.value)
    assert "line 4: FileSize: 'y'" in message
    assert "line 6: NarSize: 'x'" in message
    assert "has no URL" in message
    assert "has no NarSize" not in message


def test_very_many_faults_are_counted() -> None:
    with pytest.raises(InvalidFormat, match="and 984 more faults") as caught:
        parse_narinfo("x\n" * 1000)
    assert len(str(caught.value)) < 2000


def test_a_narinfo_of_absurd_length_is_refused_unread() -> None:
    with pytest.raises(InvalidFormat, match="has 3000000 bytes: expected at most"):
        parse_narinfo(b"x" * 3_000_000)


@pytest.mark.parametrize(
    "changes",
    [
        {"url": ""},
        {"url": "nar/x\nSig: y"},
        {"compression": "rar"},
        {"nar_hash": bytes(20)},
        {"nar_size": 0},
        {"file_size": -1},
        {"system": "x\ny"},
        {"extra": (("a:b", "c"),)},
        {"extra": (("a", "b\r"),)},
        {"extra": (("", "b"),)},
    ],
    ids=str,
)
def test_metadata_that_would_not_render_to_a_narinfo_is_not_made(changes: dict[str, object]) -> None:
    with pytest.raises(InvalidFormat, match="narinfo"):
        replace(parse_narinfo(text_of()), **changes)  # pyright: ignore[reportArgumentType]  the point of the test


digests = st.binary(min_size=32, max_size=32)
paths = st.builds(
    StorePath,
    st.binary(min_size=20, max_size=20).map(nix32.encode).map(HashPart),
    st.text("abcXYZ019+_?=-", min_size=1, max_size=30),
)
values = st.text(st.characters(codec="utf-8", exclude_categories=["Cc"]), max_size=30)
infos = st.builds(
    NarInfo,
    store_path=paths,
    store_dir=st.sampled_from([NIX_STORE, StoreDir("/gnu/store")]),
    url=values.filter(bool),
    compression=st.sampled_from(["none", "xz", "zstd"]),
    file_hash=st.none() | st.builds(NixHash, st.just(HashAlgorithm.SHA256), digests),
    file_size=st.none() | st.integers(0, 2**64 - 1),
    nar_hash=digests,
    nar_size=st.integers(1, 2**63 - 1),
    references=st.lists(paths, unique=True, max_size=5).map(sorted).map(tuple),
    deriver=st.none() | paths,
    system=st.none() | values.filter(bool),
    signatures=st.lists(
        st.builds(Signature, st.sampled_from(["a-1", "b-1"]), st.binary(min_size=64, max_size=64)), unique=True
    ).map(tuple),
    ca=st.none()
    | st.builds(
        ContentAddress,
        st.sampled_from([IngestionMethod.FLAT, IngestionMethod.NAR, IngestionMethod.TEXT]),
        st.builds(NixHash, st.just(HashAlgorithm.SHA256), digests),
    ),
    extra=st.lists(st.tuples(st.text("xyz", min_size=1), values), max_size=3).map(tuple),
)


@given(infos)
def test_any_metadata_comes_back(info: NarInfo) -> None:
    assert parse_narinfo(render_narinfo(info).encode()) == info

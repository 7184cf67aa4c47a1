from __future__ import annotations

import base64
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from icehouse.errors import InvalidFormat
from icehouse.nix.narinfo import parse_narinfo
from icehouse.nix.signing import PathInfo, PublicKey, SecretKey, Signature, fingerprint
from icehouse.nix.store_paths import NIX_STORE, StoreDir, StorePath
from tests.nix.vectors import NARINFOS, VECTORS

SECRET = (VECTORS / "keys" / "secret").read_text()
PUBLIC = (VECTORS / "keys" / "public").read_text()
KEY = SecretKey.parse(SECRET)
A = StorePath.parse("0l443fp3vhx1izx04zwnwn9l2c8k7adg-a")
B = StorePath.parse("jfk7ayq1jslsk8c59bag44drw1fw9qry-b")


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def test_the_fingerprint_has_full_paths_and_sorted_references() -> None:
    info = PathInfo(B, bytes(32), 120, (B, A, B))
    assert fingerprint(info, StoreDir("/gnu/store")) == (
        f"1;/gnu/store/{B};sha256:{'0' * 52};120;/gnu/store/{A},/gnu/store/{B}".encode()
    )


def test_the_fingerprint_of_a_path_without_references_ends_in_a_semicolon() -> None:
    assert fingerprint(PathInfo(A, bytes(32), 1, ()), NIX_STORE).endswith(b";1;")


@pytest.mark.parametrize("nar_size", [0, -1])
def test_a_path_of_no_size_is_not_signed(nar_size: int) -> None:
    with pytest.raises(InvalidFormat, match="expected a positive number"):
        fingerprint(PathInfo(A, bytes(32), nar_size, ()), NIX_STORE)


@pytest.mark.parametrize("path", NARINFOS, ids=lambda path: path.stem)
def test_signatures_are_those_that_nix_makes(path: Path) -> None:
    info = parse_narinfo(path.read_bytes())
    covered = fingerprint(info, info.store_dir)
    assert (KEY.sign(covered),) == info.signatures
    assert PublicKey.parse(PUBLIC).verify(covered, info.signatures[0])


def test_key_files_of_nix_are_read_and_rendered_alike() -> None:
    assert KEY.render() == SECRET
    assert KEY.public_key.render() == PUBLIC
    assert SecretKey.parse(SECRET + "\n") == KEY
    assert PublicKey.parse(PUBLIC + "\n") == KEY.public_key


@given(st.binary(min_size=32, max_size=32), st.binary(max_size=50))
def test_what_a_key_signs_its_public_half_verifies(seed: bytes, message: bytes) -> None:
    key = SecretKey.generate("k-1", seed)
    signature = Signature.parse(key.sign(message).render())
    assert key.public_key.verify(message, signature)
    assert not key.public_key.verify(message + b"!", signature)
    assert SecretKey.parse(key.render()) == key


def test_a_signature_under_another_name_is_not_accepted() -> None:
    other = SecretKey(KEY.key_name + "x", KEY.seed)
    assert not KEY.public_key.verify(b"message", other.sign(b"message"))


def test_a_signature_by_another_key_of_the_same_name_is_not_accepted() -> None:
    other = SecretKey(KEY.key_name, bytes(32))
    assert not KEY.public_key.verify(b"message", other.sign(b"message"))


def test_a_public_key_that_is_no_point_verifies_nothing() -> None:
    assert not PublicKey(KEY.key_name, b"\xff" * 32).verify(b"message", KEY.sign(b"message"))


def test_a_secret_key_does_not_show_its_secret() -> None:
    for shown in (repr(KEY), str(KEY), f"{[KEY]}"):
        assert shown.strip("[]") == "SecretKey(key_name='cache.example-1')"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "expected <key name>:<base64>"),
        ("key-1", "expected <key name>:<base64>"),
        (":" + b64(bytes(64)), "key name ''"),
        ("key 1:" + b64(bytes(64)), "key name 'key 1'"),
        ("key\n:" + b64(bytes(64)), "key name 'key"),
        ("k" * 256 + ":" + b64(bytes(64)), "expected 1 to 255 printable"),
        ("key-1:", "has 0 bytes: expected 64"),
        ("key-1:" + b64(bytes(63)), "has 63 bytes: expected 64"),
        ("key-1:" + b64(bytes(65)), "has 65 bytes: expected 64"),
        ("key-1:" + b64(bytes(64)).rstrip("="), "is not base64"),
        ("key-1:" + b64(bytes(64)) + "\n", "is not base64"),
        ("key-1: " + b64(bytes(64)), "is not base64"),
        ("key-1:x:" + b64(bytes(64)), "is not base64"),
        ("key-1:" + b64(bytes(64))[:-3] + "B==", "bits set"),
    ],
)
def test_what_is_no_signature_is_refused(text: str, complaint: str) -> None:
    with pytest.raises(InvalidFormat, match=complaint):
        Signature.parse(text)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (b64(bytes(32)), "expected <key name>:<base64>"),
        ("key-1:" + b64(bytes(31)), "has 31 bytes: expected 32"),
        ("key-1:" + b64(bytes(64)), "has 64 bytes: expected 32"),
        ("key-1:?", "is not base64"),
    ],
)
def test_what_is_no_public_key_is_refused(text: str, complaint: str) -> None:
    with pytest.raises(InvalidFormat, match=complaint):
        PublicKey.parse(text)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (b64(bytes(64)), "expected <key name>:<base64>"),
        ("key-1:" + b64(b"\xaa" * 32), "key-1 has 32 bytes: expected 64"),
        ("key-1:" + b64(b"\xaa" * 64), "its public half does not belong to its seed"),
        ("key-1:qqqqqqqq!", "key-1: what follows the colon is not base64"),
        ("key 1:" + b64(b"\xaa" * 64), "key name 'key 1'"),
    ],
)
def test_what_is_no_secret_key_is_refused_without_repeating_it(text: str, complaint: str) -> None:
    with pytest.raises(InvalidFormat, match=complaint) as caught:
        SecretKey.parse(text)
    assert "qqqqqq" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_a_seed_of_another_length_makes_no_key() -> None:
    with pytest.raises(InvalidFormat, match="has 31 bytes: expected 32"):
        SecretKey.generate("key-1", bytes(31))

from __future__ import annotations

import json
from typing import Any, cast

import pytest

from icehouse.errors import InvalidFormat
from icehouse.nix.content_address import ContentAddress, IngestionMethod, make_fixed_path, store_path_of
from icehouse.nix.hashes import HashAlgorithm, NixHash
from icehouse.nix.store_paths import NIX_STORE, StorePath, parse_full
from tests.nix.vectors import VECTORS

PATH_INFOS = [
    info
    for info in cast("list[dict[str, Any]]", json.loads((VECTORS / "path-info" / "nix-2.8.json").read_text()))
    if "ca" in info
]
SHA256 = "0mwcj9dqb7qzywqnway4mk4rr8i2caykfhs5phz0cik75ayp4a5p"
SHA1 = "i2n6k6m7ji7ihkhs5wpql8n9dby5ch69"
OTHER = StorePath.parse("jfk7ayq1jslsk8c59bag44drw1fw9qry-plain.txt")


@pytest.mark.parametrize("info", PATH_INFOS, ids=lambda info: f"{info['ca']} {info['path'][44:]}")
def test_the_store_path_of_a_content_address_is_the_one_that_nix_gave_it(info: dict[str, Any]) -> None:
    path = parse_full(info["path"], NIX_STORE)
    references = {parse_full(reference, NIX_STORE) for reference in info["references"]}
    ca = ContentAddress.parse(info["ca"])
    assert store_path_of(ca, path.name, references - {path}, path in references, NIX_STORE) == path
    assert ca.render() == info["ca"]


def test_the_vectors_hold_every_kind_of_content_address() -> None:
    kinds = {info["ca"].rpartition(":")[0] for info in PATH_INFOS}
    assert kinds >= {"text:sha256", "fixed:sha256", "fixed:sha1", "fixed:md5", "fixed:r:sha256", "fixed:r:sha1"}
    assert any(info["path"] in info["references"] for info in PATH_INFOS)


@pytest.mark.parametrize(
    ("text", "method", "algorithm"),
    [
        (f"text:sha256:{SHA256}", IngestionMethod.TEXT, HashAlgorithm.SHA256),
        (f"fixed:sha1:{SHA1}", IngestionMethod.FLAT, HashAlgorithm.SHA1),
        (f"fixed:r:sha256:{SHA256}", IngestionMethod.NAR, HashAlgorithm.SHA256),
        (f"fixed:git:sha1:{SHA1}", IngestionMethod.GIT, HashAlgorithm.SHA1),
        (f"fixed:git:sha256:{SHA256}", IngestionMethod.GIT, HashAlgorithm.SHA256),
    ],
)
def test_content_addresses_are_read_and_rendered(text: str, method: IngestionMethod, algorithm: HashAlgorithm) -> None:
    ca = ContentAddress.parse(text)
    assert (ca.method, ca.hash.algorithm, ca.render()) == (method, algorithm, text)


def test_a_content_address_in_hexadecimal_is_rendered_in_nix32() -> None:
    assert ContentAddress.parse(f"fixed:md5:{'00' * 16}").render() == f"fixed:md5:{'0' * 26}"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "expected text:sha256:"),
        (f"sha256:{SHA256}", "expected text:sha256:"),
        (f"fixed:{SHA256}", "expected text:sha256:"),
        (f"text:{SHA256}", "expected text:sha256:"),
        ("fixed:sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=", "expected text:sha256:"),
        (f"text:sha1:{SHA1}", "expected sha256"),
        (f"fixed:git:md5:{'0' * 32}", "expected sha1 or sha256"),
        (f"fixed:r:sha1:{SHA256}", "has 52 characters"),
        (f"fixed:x:sha1:{SHA1}", "algorithm 'x' is not known"),
        (f"fixed:sha256:sha256:{SHA256}", "has 59 characters"),
        (f"fixed:sha256:{SHA256}\n", "has 53 characters"),
    ],
)
def test_what_is_no_content_address_is_refused(text: str, complaint: str) -> None:
    with pytest.raises(InvalidFormat, match=complaint):
        ContentAddress.parse(text)


@pytest.mark.parametrize("text", [f"fixed:sha256:{SHA256}", f"fixed:r:sha1:{SHA1}", f"fixed:git:sha1:{SHA1}"])
@pytest.mark.parametrize("has_self_reference", [True, False])
def test_only_texts_and_nars_by_sha256_can_have_references(text: str, has_self_reference: bool) -> None:  # noqa: FBT001
    references = [] if has_self_reference else [OTHER]
    with pytest.raises(InvalidFormat, match="cannot have references"):
        store_path_of(ContentAddress.parse(text), "x", references, has_self_reference, NIX_STORE)


def test_a_text_cannot_refer_to_itself() -> None:
    with pytest.raises(InvalidFormat, match="cannot refer to itself"):
        store_path_of(ContentAddress.parse(f"text:sha256:{SHA256}"), "x", [], True, NIX_STORE)  # noqa: FBT003


def test_a_git_tree_has_another_path_than_a_flat_file_with_its_hash() -> None:
    content_hash = NixHash(HashAlgorithm.SHA1, bytes(20))
    paths = {
        make_fixed_path(method, content_hash, "x", (), False, NIX_STORE)  # noqa: FBT003
        for method in (IngestionMethod.FLAT, IngestionMethod.NAR, IngestionMethod.GIT)
    }
    assert len(paths) == 3

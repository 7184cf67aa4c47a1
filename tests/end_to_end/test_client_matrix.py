"""Stock Nix of each version reads what our command line pushed."""

import json
from typing import Any, cast

import pytest

from tests.end_to_end.conftest import Published
from tests.end_to_end.nix_clients import NixClient

pytestmark = pytest.mark.end_to_end


def path_info(client: NixClient, store: str, *arguments: str) -> dict[str, dict[str, Any]]:
    """What `nix path-info --json` says, by full path: older versions print a list."""
    printed: Any = json.loads(client.run("nix", "path-info", "--store", store, "--json", *arguments))
    if isinstance(printed, dict):
        return cast("dict[str, dict[str, Any]]", printed)
    return {info["path"]: info for info in cast("list[dict[str, Any]]", printed)}


@pytest.mark.column("pull")
def test_a_closure_is_pulled_byte_for_byte_with_its_signatures_checked(reader: NixClient, published: Published) -> None:
    reader.use_cache(published.url, published.key)
    reader.pull(published.top)
    assert len(published.closure) == 3
    for path in published.closure:
        assert reader.dump(path) == published.pusher.dump(path)
        assert reader.nar_hash_of(path) == published.pusher.nar_hash_of(path)


@pytest.mark.column("other key refused")
def test_a_path_is_refused_without_the_key_that_signed_it(reader: NixClient, published: Published) -> None:
    reader.use_cache(published.url, published.other_key)
    done = reader.try_pull(published.top)
    assert done.returncode != 0
    assert "not signed by any of the keys" in done.stderr, done.stderr


@pytest.mark.column("path-info")
def test_path_info_tells_of_the_cache_what_it_tells_of_the_store(reader: NixClient, published: Published) -> None:
    infos = path_info(reader, published.url, "--recursive", published.top)
    built = path_info(published.pusher, str(published.pusher.root), "--recursive", published.top)
    assert set(infos) == set(built)
    for path, info in infos.items():
        for fact in ("narHash", "narSize", "references", "deriver"):
            assert info[fact] == built[path][fact]
        assert [signature.split(":")[0] for signature in info["signatures"]] == [published.key.split(":")[0]]


@pytest.mark.column("ls, cat")
def test_files_in_the_cache_are_listed_and_printed(reader: NixClient, published: Published) -> None:
    listed = reader.run("nix", "store", "ls", "--store", published.url, "--recursive", f"{published.top}/share")
    assert sorted(listed.split()) == ["./text", "./top"]
    assert reader.run("nix", "store", "cat", "--store", published.url, f"{published.top}/share/text") == "text"

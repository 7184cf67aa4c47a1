"""Waiting until a Nix that knows nothing yet could substitute a path."""

import hashlib
from collections.abc import Callable, Sequence

import pytest

from icehouse.api.caches import CacheView
from icehouse.client.visibility import wait_until_visible
from icehouse.errors import Denied, Unavailable
from icehouse.nix.hashes import render_sha256
from icehouse.nix.path_info_json import ValidPath
from icehouse.nix.signing import SecretKey, fingerprint
from icehouse.nix.store_paths import NIX_STORE, StorePath
from tests.scripted_server import Answer, ScriptedServer

KEY = SecretKey.generate("key-1", bytes(range(32)))
OTHER = SecretKey.generate("key-1", bytes(32))
PATH = StorePath.parse("0123456789abcdfghijklmnpqrsvwxyz-hello")
INFO = ValidPath(PATH, hashlib.sha256(b"").digest(), 120, (), None, (), None, None)
NOT_FOUND: Answer = (404, {}, b"404")
NAR: Answer = (200, {}, b"")

VIEW = CacheView(
    name="a",
    url="http://x/a",
    is_public=True,
    priority=41,
    want_mass_query=True,
    store_dir="/nix/store",
    public_keys=[KEY.public_key.render()],
    upstreams=[],
    created_at=0,
    keep_unused_seconds=None,
    keep_pushed_seconds=None,
    budget_bytes=None,
    limit_bytes=None,
    trash_seconds=0,
    stored_bytes=0,
    warning=None,
)


def narinfo(key: SecretKey = KEY, nar_hash: bytes = INFO.nar_hash) -> Answer:
    signature = key.sign(fingerprint(INFO, NIX_STORE)).render()
    lines = [f"StorePath: /nix/store/{PATH}", "URL: nar/x.nar.zst", "Compression: zstd"]
    lines += [f"NarHash: {render_sha256(nar_hash)}", "NarSize: 120", "References: ", f"Sig: {signature}"]
    return 200, {}, "".join(f"{line}\n" for line in lines).encode()


async def wait(server: ScriptedServer, seconds: float, token: str | None = None) -> None:
    await wait_until_visible(f"{server.url}/a", VIEW, NIX_STORE, [INFO], token=token, seconds=seconds)


async def test_a_path_is_asked_for_until_its_narinfo_and_its_nar_are_there(
    scripted: Callable[..., ScriptedServer],
) -> None:
    server = scripted(NOT_FOUND, narinfo(OTHER), narinfo(), NOT_FOUND, narinfo(), NAR)
    await wait(server, 60, "ice_x")
    narinfos, nars = [f"/a/{PATH.hash_part}.narinfo"], ["/a/nar/x.nar.zst"]
    assert [path for _, path, _ in server.requests] == [*narinfos * 3, *nars, *narinfos, *nars]
    assert {credential for *_, credential in server.requests} == {"Basic aWNlaG91c2U6aWNlX3g="}


WRONG: list[tuple[list[Answer], str]] = [
    ([NOT_FOUND], "its narinfo is answered with status 404"),
    ([narinfo(OTHER)], "no good signature of a key of the cache"),
    ([narinfo(nar_hash=bytes(32))], "its narinfo is of another path or NAR"),
    ([(200, {}, b"<html>")], "has no StorePath"),
    ([narinfo(), NOT_FOUND], "its NAR is answered with status 404"),
]


@pytest.mark.parametrize(("answers", "reason"), WRONG)
async def test_what_is_not_there_in_time_is_named_with_the_reason(
    scripted: Callable[..., ScriptedServer], answers: Sequence[Answer], reason: str
) -> None:
    server = scripted(*list(answers) * 10)
    with pytest.raises(Unavailable, match=f"{PATH}: .*{reason}"):
        await wait(server, 0.5)


async def test_a_token_that_may_not_pull_ends_the_wait(scripted: Callable[..., ScriptedServer]) -> None:
    with pytest.raises(Denied, match="--wait needs one that may pull"):
        await wait(scripted((401, {}, b"")), 60, "ice_x")

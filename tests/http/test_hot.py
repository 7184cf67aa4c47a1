from __future__ import annotations

import asyncio
import base64
import hashlib
import shutil
from collections.abc import AsyncIterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Connection, insert, update

from icehouse.db import schema
from icehouse.db.engine import Database
from icehouse.db.migrate import prepare_database
from icehouse.db.serving import ServingQueries
from icehouse.errors import Corrupt, NotFound
from icehouse.http.asgi import Receive, Scope, Send, SmallAnswer
from icehouse.http.cache_files import CacheFiles
from icehouse.http.front import Front, find_client
from icehouse.http.hot import HOT_PATH, HotParts, HotRoutes, render_row
from icehouse.http.metrics import ServerCounters
from icehouse.http.parts import ServerParts
from icehouse.nix import nix32
from icehouse.nix.narinfo import parse_narinfo, render_narinfo
from icehouse.rules.access import Permission, Token, hash_token, make_token
from icehouse.services.access import Access, HotAccess
from icehouse.services.flushing import Settle
from icehouse.services.traffic import CacheTraffic
from icehouse.storage.blobs import Piece
from tests.http.asgi_client import Answer, ask, make_scope
from tests.http.asgi_client import Connection as ClientConnection

NOW = 1_700_000_000
PULLER = make_token(bytes(32))
STRANGER = make_token(bytes(31) + b"\x01")
EXPIRED = make_token(bytes(31) + b"\x02")
BODY = bytes(range(256)) * 3
NAR_HASH = nix32.encode(hashlib.sha256(b"a nar").digest())
FILE_HASH = hashlib.sha256(BODY).digest()
PATH = "0" * 31 + "1"
HIDDEN = "0" * 31 + "2"
BARE = "0" * 31 + "3"
CACHE_URLS = [f"{PATH}.narinfo", f"{'z' * 32}.narinfo", "nix-cache-info", f"nar/{NAR_HASH}.nar.zst"]
SIGNATURES = " ".join(f"key-{number}:{'A' * 86}==" for number in (1, 2))


@dataclass
class Nar:
    """A NAR whose file is *data*; after *breaks_after* blocks its reading fails."""

    data: bytes
    breaks_after: int | None = None
    blocks_read: int = 0

    @property
    def file_size(self) -> int:
        return len(self.data)

    async def blocks(self, start: int, stop: int) -> AsyncIterator[bytes]:
        for place in range(start, stop, 100):
            if self.blocks_read == self.breaks_after:
                raise Corrupt("a damaged pack")
            self.blocks_read += 1
            yield self.data[place : min(place + 100, stop)]

    def parts(self, start: int, stop: int) -> AsyncIterator[bytearray | list[Piece]]:
        raise NotImplementedError  # these clients take no pieces


@dataclass
class World:
    """The hot routes over a real database with a public and a private cache, and one NAR in both domains."""

    app: HotRoutes
    nar: Nar
    database: Database
    counters: ServerCounters
    settle: list[Settle]
    """Have noted what was counted elsewhere."""
    is_purged: bool = False
    uses: list[tuple[int, int]] = field(default_factory=list[tuple[int, int]])
    downloads: list[tuple[int, int | None, str, int]] = field(default_factory=list[tuple[int, int | None, str, int]])

    traffic: dict[str, CacheTraffic] = field(default_factory=dict[str, CacheTraffic])
    is_small: bool = False
    """Whether the NAR can be had at once."""
    small_reads: int = 0

    def read_small(self, nar_id: int) -> bytes | None:
        self.small_reads += 1
        if self.is_purged:
            raise NotFound(f"NAR {nar_id}")
        return self.nar.data if self.is_small else None

    async def open_nar(self, nar_id: int) -> Nar:
        if self.is_purged:
            raise NotFound(f"NAR {nar_id}")
        return self.nar

    async def get(self, path: str | bytes, **headers: str) -> Answer:
        return await ask(self.app, path, headers={name.replace("_", "-"): value for name, value in headers.items()})


def path_values(cache_id: int, hash_part: str, **others: object) -> dict[str, object]:
    return {
        "cache_id": cache_id,
        "hash_part": hash_part,
        "name": "hello-1.0",
        "nar_id": cache_id,
        "nar_hash": NAR_HASH,
        "nar_size": 1000,
        "file_hash": nix32.encode(FILE_HASH),
        "file_size": len(BODY),
        "references": f"{PATH}-hello-1.0 {BARE}-libc-2",
        "deriver": f"{HIDDEN}-hello-1.0.drv",
        "system": "x86_64-linux",
        "ca": None,
        "signatures": SIGNATURES,
        "created_at": NOW,
        "hidden_at": None,
    } | others


def fill(connection: Connection) -> None:
    connection.execute(insert(schema.domain).values(id=2, created_at=NOW))
    for cache_id, name, store_dir in ((1, "open", "/nix/store"), (2, "secret", "/gnu/store")):
        connection.execute(
            insert(schema.cache).values(
                id=cache_id,
                name=name,
                domain_id=cache_id,
                is_public=int(cache_id == 1),
                store_dir=store_dir,
                priority=40 + cache_id,
                want_mass_query=1,
                created_at=NOW,
            )
        )
        connection.execute(
            insert(schema.nar).values(
                id=cache_id,
                domain_id=cache_id,
                nar_hash=nix32.decode(NAR_HASH, 32),
                nar_size=1000,
                file_hash=FILE_HASH,
                file_size=len(BODY),
                created_at=NOW,
            )
        )
        connection.execute(insert(schema.path).values(**path_values(cache_id, PATH)))
        connection.execute(insert(schema.path).values(**path_values(cache_id, HIDDEN, hidden_at=NOW)))
        bare = {"references": "", "deriver": None, "system": None, "signatures": ""}
        connection.execute(insert(schema.path).values(**path_values(cache_id, BARE, **bare)))
    connection.execute(
        insert(schema.cache).values(
            id=3,
            name="other",
            domain_id=1,
            is_public=1,
            store_dir="/nix/store",
            priority=1,
            want_mass_query=0,
            created_at=0,
        )
    )
    for token, pattern, expires_at in ((PULLER, "sec*", None), (STRANGER, "other", None), (EXPIRED, "*", NOW)):
        connection.execute(
            insert(schema.token).values(
                token_hash=hash_token(token),
                description="test",
                permissions=Permission.PULL,
                cache_pattern=pattern,
                created_at=NOW,
                expires_at=expires_at,
            )
        )


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database to copy: migrations take longer than a test."""
    path = tmp_path_factory.mktemp("filled") / "icehouse.db"
    prepare_database(path)
    with closing(Database.open(path)) as database:
        asyncio.run(database.write(fill))
    return path


@pytest.fixture
async def world(tmp_path: Path, filled: Path) -> AsyncIterator[World]:
    path = tmp_path / "icehouse.db"
    shutil.copyfile(filled, path)
    database = Database.open(path)
    counters = ServerCounters()

    async def api(_scope: Scope, _receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 299, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    with closing(database.open_reader()) as reader:
        world = World.__new__(World)
        settle: list[Settle] = []
        hot = HotParts(
            queries=ServingQueries(reader),
            check_pull=HotAccess(Access(database, clock=lambda: NOW), reader, path, clock=lambda: NOW).check_pull,
            nars=world,
            note_use=lambda path_id, now, count: world.uses.extend([(path_id, now)] * count),
            settle_first=settle.append,
            note_download=lambda path, token, client, now: world.downloads.append((path, token, client, now)),
            traffic_of=lambda name: world.traffic.setdefault(name, CacheTraffic()),
            clock=lambda: NOW,
            counters=counters,
            call_soon=asyncio.get_running_loop().call_soon,
            find_client=lambda peer, headers: find_client(peer, headers, ()),
        )
        files = CacheFiles(cast("ServerParts", None), ())  # no routes, so no parts
        World.__init__(
            world,
            HotRoutes(hot, Front(api, files, counters)),
            Nar(BODY),
            database,
            counters,
            settle,
        )
        yield world
    database.close()


def basic(token: Token) -> str:
    return "Basic " + base64.b64encode(f"anyone:{token}".encode()).decode()


async def test_a_narinfo_is_the_text_that_our_own_format_writes(world: World) -> None:
    answer = await world.get(f"/open/{PATH}.narinfo")
    assert answer.status == 200
    assert answer.headers == {
        "content-type": "text/x-nix-narinfo",
        "cache-control": "public, max-age=3600",
        "content-length": str(len(answer.body)),
    }
    info = parse_narinfo(answer.body)
    assert render_narinfo(info).encode() == answer.body
    assert info.url == f"nar/{NAR_HASH}.nar.zst"
    assert [signature.key_name for signature in info.signatures] == ["key-1", "key-2"]


async def test_a_narinfo_without_references_keeps_the_space_and_leaves_absent_fields_out(world: World) -> None:
    answer = await world.get(f"/open/{BARE}.narinfo")
    assert answer.body.endswith(b"NarSize: 1000\nReferences: \n")


def test_a_ca_stands_at_the_end_of_a_narinfo() -> None:
    row = (1, "/nix/store", 1, "n", "a", 1, "b", 2, "", None, None, "k:s", "text:sha256:c")
    assert render_row(row, PATH).endswith(b"References: \nSig: k:s\nCA: text:sha256:c\n")


async def test_the_store_directory_is_the_caches_own(world: World) -> None:
    answer = await world.get(f"/secret/{PATH}.narinfo", authorization=f"Bearer {PULLER}")
    assert answer.body.startswith(f"StorePath: /gnu/store/{PATH}-hello-1.0\n".encode())


async def test_what_the_cache_does_not_have_is_answered_with_where_to_ask_why(world: World) -> None:
    for hash_part in (HIDDEN, "z" * 32):
        answer = await world.get(f"/open/{hash_part}.narinfo")
        assert answer.status == 404
        assert answer.headers["cache-control"] == "no-store"
        assert f"GET /api/v1/caches/open/why/{hash_part}\n".encode() in answer.body


async def test_nix_cache_info_has_the_settings_of_the_cache(world: World) -> None:
    answer = await world.get("/open/nix-cache-info")
    assert (answer.status, answer.headers["content-type"]) == (200, "text/x-nix-cache-info")
    assert answer.body == b"StoreDir: /nix/store\nWantMassQuery: 1\nPriority: 41\n"
    other = await world.get("/other/nix-cache-info")
    assert other.body == b"StoreDir: /nix/store\nWantMassQuery: 0\nPriority: 1\n"


async def test_a_setting_that_another_process_changes_holds_at_once(world: World) -> None:
    await world.get("/open/nix-cache-info")
    await world.database.write(lambda connection: connection.execute(update(schema.cache).values(is_public=0)).rowcount)
    assert (await world.get("/open/nix-cache-info")).status == 401
    assert (await world.get(f"/open/{PATH}.narinfo")).status == 401


async def test_a_nar_comes_whole_and_may_be_kept_for_ever(world: World) -> None:
    answer = await world.get(f"/open/nar/{NAR_HASH}.nar.zst")
    assert (answer.status, answer.body) == (200, BODY)
    assert answer.headers == {
        "content-type": "application/x-nix-nar",
        "cache-control": "public, max-age=31536000, immutable",
        "accept-ranges": "bytes",
        "etag": f'"{FILE_HASH.hex()}"',
        "content-length": str(len(BODY)),
    }


@pytest.mark.parametrize(
    ("asked", "status", "content_range", "body"),
    [
        ("bytes=5-9", 206, f"bytes 5-9/{len(BODY)}", BODY[5:10]),
        ("bytes=700-", 206, f"bytes 700-767/{len(BODY)}", BODY[700:]),
        ("bytes=-3", 206, f"bytes 765-767/{len(BODY)}", BODY[-3:]),
        ("bytes=0-99999", 206, f"bytes 0-767/{len(BODY)}", BODY),
        ("bytes=768-", 416, f"bytes */{len(BODY)}", b""),
        ("bytes=0-1,3-4", 200, None, BODY),
        ("lines=1-2", 200, None, BODY),
    ],
)
async def test_a_range_of_a_nar(world: World, asked: str, status: int, content_range: str | None, body: bytes) -> None:
    answer = await world.get(f"/open/nar/{NAR_HASH}.nar.zst", range=asked)
    assert (answer.status, answer.headers.get("content-range"), answer.body) == (status, content_range, body)
    assert answer.headers["content-length"] == str(len(body))


async def test_a_range_is_for_the_file_that_the_client_began_with(world: World) -> None:
    etag = f'"{FILE_HASH.hex()}"'
    url = f"/open/nar/{NAR_HASH}.nar.zst"
    assert (await world.get(url, range="bytes=5-", if_range=etag)).status == 206
    for other in ('"another"', f"W/{etag}", "Sun, 06 Nov 1994 08:49:37 GMT"):
        assert (await world.get(url, range="bytes=5-", if_range=other)).status == 200


async def test_a_nar_that_the_client_has_is_not_sent_again(world: World) -> None:
    url = f"/open/nar/{NAR_HASH}.nar.zst"
    for known in (f'"{FILE_HASH.hex()}"', f'W/"{FILE_HASH.hex()}"', f'"x", "{FILE_HASH.hex()}"', "*"):
        answer = await world.get(url, if_none_match=known)
        assert (answer.status, answer.body, "content-length" in answer.headers) == (304, b"", False)
    assert (await world.get(url, if_none_match='"x"')).status == 200


async def test_a_nar_of_the_trash_is_answered_and_one_of_another_cache_is_not(world: World) -> None:
    url = f"nar/{NAR_HASH}.nar.zst"
    await world.database.write(
        lambda connection: connection.execute(update(schema.path).values(hidden_at=NOW)).rowcount
    )
    assert (await world.get(f"/open/{url}")).body == BODY
    assert world.uses == []
    # It is in the same domain, so its chunks are shared; but no path of this cache has it.
    assert (await world.get(f"/other/{url}")).status == 404


@pytest.mark.parametrize("nar_hash", ["0" * 52, "z" * 52])
async def test_a_nar_that_nobody_has_is_not_found(world: World, nar_hash: str) -> None:
    assert (await world.get(f"/open/nar/{nar_hash}.nar.zst")).status == 404


async def test_a_nar_that_was_purged_meanwhile_is_not_found(world: World) -> None:
    world.is_purged = True
    assert (await world.get(f"/open/nar/{NAR_HASH}.nar.zst")).status == 404


@pytest.mark.parametrize("url", CACHE_URLS)
async def test_a_private_cache_and_an_absent_one_look_alike_to_those_who_may_not_know(world: World, url: str) -> None:
    wrong = ("", "Bearer nonsense", f"Bearer {make_token(b'?' * 32)}", f"Bearer {EXPIRED}", "Digest x", basic(EXPIRED))
    for authorization in wrong:
        headers = {"authorization": authorization} if authorization else {}
        private, absent = [await world.get(f"/{cache}/{url}", **headers) for cache in ("secret", "absent")]
        assert private == absent
        assert private.status == 401
        assert private.headers["www-authenticate"] == 'Basic realm="icehouse"'
    private, absent = [await world.get(f"/{c}/{url}", authorization=basic(STRANGER)) for c in ("secret", "absent")]
    assert private == absent
    assert private.status == 404
    assert b"/why/" not in private.body


@pytest.mark.parametrize("authorization", [f"Bearer {PULLER}", basic(PULLER)], ids=["Bearer", "Basic"])
async def test_who_may_pull_from_a_private_cache_gets_its_files_for_nobody_else(
    world: World, authorization: str
) -> None:
    for url in CACHE_URLS:
        answer = await world.get(f"/secret/{url}", authorization=authorization)
        assert answer.status == (404 if url.startswith("z") else 200)
        if answer.status == 200:
            assert answer.headers["cache-control"].startswith("private")
            assert answer.headers["vary"] == "authorization"


@pytest.mark.parametrize("authorization", ["Bearer nonsense", f"Bearer {EXPIRED}", basic(STRANGER), "Digest x"])
async def test_credentials_of_another_host_do_no_harm_to_a_public_cache(world: World, authorization: str) -> None:
    assert (await world.get(f"/open/{PATH}.narinfo", authorization=authorization)).status == 200


@pytest.mark.parametrize("cache", ["open", "secret", "absent"])
@pytest.mark.parametrize("url", [*CACHE_URLS, f"{HIDDEN}.narinfo", "nar/x.nar.zst", "what/else", ""])
async def test_head_has_status_and_headers_of_get_without_its_body(world: World, cache: str, url: str) -> None:
    headers = {"authorization": basic(PULLER)} if cache == "secret" else {}
    get = await ask(world.app, f"/{cache}/{url}", "GET", headers)
    head = await ask(world.app, f"/{cache}/{url}", "HEAD", headers)
    for answer in (get, head):
        answer.headers.pop("x-request-id", None)  # each request has its own
    assert (head.status, head.headers, head.body) == (get.status, get.headers, b"")


@pytest.mark.parametrize("method", ["PUT", "POST", "DELETE", "PATCH", "OPTIONS"])
@pytest.mark.parametrize(
    "url", ["/open/nix-cache-info", f"/open/{PATH}.narinfo", "/open/nar/x.nar.xz", "/absent/log/x"]
)
async def test_other_methods_get_a_final_refusal(world: World, method: str, url: str) -> None:
    answer = await ask(world.app, url, method)
    assert (answer.status, answer.headers["allow"]) == (405, "GET, HEAD")


@pytest.mark.parametrize(
    "raw_path",
    [
        b"/",
        b"",
        b"*",
        b"/open",
        b"/open/",
        b"//open/nix-cache-info",
        b"/open//nix-cache-info",
        b"/open/./nix-cache-info",
        b"/secret/../open/nix-cache-info",
        b"/open%2fnix-cache-info",
        b"/open/nix%2dcache-info",
        b"/open/nix-cache-info%00",
        b"/open/nix-cache-info\n",
        b"/open/nix-cache-info/",
        b"/OPEN/nix-cache-info",
        b"/-open/nix-cache-info",
        b"/open/" + PATH.encode() + b".narinfo%00",
        b"/open/" + PATH.encode().replace(b"1", b"%31") + b".narinfo",
        b"/open/" + b"e" * 32 + b".narinfo",
        b"/open/" + PATH[1:].encode() + b".narinfo",
        b"/open/" + PATH.encode() + b".NARINFO",
        b"/open/nar/..%2f..%2ficehouse.db",
        b"/open/nar/" + NAR_HASH.encode() + b".nar",
        b"/open/nar/" + NAR_HASH.upper().encode() + b".nar.zst",
        b"/\xff\xfe/nix-cache-info",
        b"/open\\nix-cache-info",
        b"/" + b"a" * 51 + b"/nix-cache-info",
    ],
)
async def test_a_path_that_is_no_file_of_a_cache_is_not_found(world: World, raw_path: bytes) -> None:
    assert (await world.get(raw_path)).status == 404


@given(raw=st.binary(max_size=60))
def test_no_path_but_its_own_reaches_a_hot_route(raw: bytes) -> None:
    match = HOT_PATH.fullmatch(b"/" + raw)
    assert match is None or b"%" not in raw


async def test_uses_are_noted_for_what_was_found(world: World) -> None:
    await world.get(f"/open/{PATH}.narinfo")
    await ask(world.app, f"/open/{PATH}.narinfo", "HEAD")
    await world.get(f"/open/nar/{NAR_HASH}.nar.zst")
    await world.get(f"/open/{HIDDEN}.narinfo")
    await world.get("/open/nix-cache-info")
    await world.get(f"/open/{PATH}.narinfo")
    assert not world.settle[0](100)
    assert world.uses == [(1, NOW)] * 4


async def test_downloads_are_noted_with_the_token_where_one_is_needed_and_else_with_the_address(world: World) -> None:
    nar = f"nar/{NAR_HASH}.nar.zst"
    await world.get(f"/open/{nar}", authorization=f"Bearer {PULLER}")
    await world.get(f"/open/{nar}", range="bytes=5-")
    await world.get(f"/secret/{nar}", authorization=f"Bearer {PULLER}")
    noted = list(world.downloads)
    await ask(world.app, f"/open/{nar}", "HEAD")
    await world.get(f"/open/{nar}", if_none_match="*")
    await world.get(f"/secret/{nar}")
    await world.get(f"/open/{PATH}.narinfo")
    assert world.downloads == noted
    assert [entry[1:] for entry in noted] == [(None, "192.0.2.7", NOW)] * 2 + [(1, "", NOW)]


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("cache", ["open", "secret", "absent"])
@pytest.mark.parametrize("is_purged", [False, True])
@pytest.mark.parametrize(
    "headers", [{}, {"authorization": basic(PULLER)}, {"range": "bytes=1-"}, {"if-none-match": "*"}]
)
async def test_a_nar_that_can_be_had_at_once_is_answered_as_any_other(
    world: World, method: str, cache: str, headers: dict[str, str], *, is_purged: bool
) -> None:
    world.is_purged = is_purged
    answers: list[Answer] = []
    noted: list[object] = []
    for is_small in (False, True):
        world.is_small = is_small
        world.uses.clear()
        world.downloads.clear()
        answers.append(await ask(world.app, f"/{cache}/nar/{NAR_HASH}.nar.zst", method=method, headers=headers))
        noted.append((list(world.uses), list(world.downloads)))
    assert answers[0] == answers[1]
    assert noted[0] == noted[1]


def answer_nar(world: World, cache: str = "open", **headers: str) -> SmallAnswer | None:
    lines = [(name.encode(), text.encode()) for name, text in headers.items()]
    return world.app.answer_now(f"/{cache}/nar/{NAR_HASH}.nar.zst".encode(), lines, peer="", is_head=False)


async def test_only_a_small_nar_that_can_be_had_is_answered_at_once(world: World) -> None:
    assert answer_nar(world) is None
    world.is_small = True
    await world.database.write(lambda connection: connection.execute(update(schema.nar).values(file_size=65_537)))
    assert answer_nar(world) is None
    await world.database.write(lambda connection: connection.execute(update(schema.nar).values(file_size=65_536)))
    found = answer_nar(world)
    assert found is not None
    assert found.body == BODY


async def test_a_small_nar_is_read_once_while_its_path_is_visible(world: World) -> None:
    world.is_small = True
    answers = [answer_nar(world) for _ in range(3)]
    assert world.small_reads == 1
    assert answers[0] is not None
    assert answers == answers[:1] * 3
    assert len(world.uses) == len(world.downloads) == 3
    await world.database.write(lambda connection: connection.execute(update(schema.path).values(hidden_at=NOW)))
    await asyncio.sleep(0)
    world.is_purged = True
    gone = answer_nar(world)
    assert gone is not None
    assert gone.head.status == 404


@pytest.mark.parametrize("what", ["private", "in the trash", "damaged"])
async def test_a_small_nar_that_may_change_is_read_each_time(world: World, what: str) -> None:
    world.is_small = True
    if what == "in the trash":
        await world.database.write(lambda connection: connection.execute(update(schema.path).values(hidden_at=NOW)))
    if what == "damaged":
        world.nar = Nar(BODY[:-1] + b"?")
    for _ in range(2):
        found = answer_nar(world, "secret", authorization=basic(PULLER)) if what == "private" else answer_nar(world)
        assert found is not None
        assert found.body == world.nar.data
    assert world.small_reads == 2


async def test_what_is_asked_of_a_cache_is_counted_for_it(world: World) -> None:
    for is_small in (False, True, True):
        world.is_small = is_small
        await world.get(f"/open/nar/{NAR_HASH}.nar.zst")
        await world.get(f"/open/{PATH}.narinfo")
        await ask(world.app, f"/open/{PATH}.narinfo", "HEAD")
        await world.get(f"/open/{'0' * 32}.narinfo")
    narinfo = await world.get(f"/secret/{PATH}.narinfo", authorization=basic(PULLER))
    await world.get(f"/secret/{PATH}.narinfo")
    await world.get(f"/nowhere/{PATH}.narinfo")
    text = await world.get(f"/open/{PATH}.narinfo")
    assert not world.settle[0](100)
    assert world.traffic == {
        "open": CacheTraffic(7, 3, 3, 3 * len(BODY) + 4 * len(text.body)),
        "secret": CacheTraffic(1, 0, 0, len(narinfo.body)),
    }


async def test_a_client_that_leaves_ends_the_reading(world: World) -> None:
    world.nar = Nar(bytes(1_000_000))
    client = ClientConnection(leaves_after=1_000)
    await world.app(make_scope("GET", f"/open/nar/{NAR_HASH}.nar.zst".encode(), {}), client.receive, client.send)
    assert world.nar.blocks_read <= 13


async def test_a_nar_that_cannot_be_read_to_its_end_is_cut_off(world: World) -> None:
    world.nar = Nar(BODY, breaks_after=3)
    client = ClientConnection()
    with pytest.raises(Corrupt):
        await world.app(make_scope("GET", f"/open/nar/{NAR_HASH}.nar.zst".encode(), {}), client.receive, client.send)
    assert client.bytes_received == 300
    assert client.sent[-1]["more_body"]


async def test_a_database_that_fails_is_no_miss(world: World) -> None:
    world.app._queries.connection.execute("PRAGMA query_only = OFF")  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
    world.app._queries.connection.close()  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
    for url in CACHE_URLS:
        answer = await world.get(f"/open/{url}")
        assert answer.status == 503
        assert answer.headers["accept-ranges"] == "bytes"  # else Nix gives up a download that had begun
        assert b"log" in answer.body


async def test_every_answer_is_counted_with_its_bytes(world: World) -> None:
    found = await world.get(f"/open/{PATH}.narinfo")
    missing = await world.get(f"/open/{HIDDEN}.narinfo")
    await world.get(f"/secret/{PATH}.narinfo")
    route = world.counters.route("narinfo")
    assert route.statuses == {200: 1, 404: 1, 503: 0, 401: 1}
    assert sum(route.buckets) == 3
    assert route.bytes_sent > len(found.body) + len(missing.body)


async def test_the_api_gets_what_is_its_own(world: World) -> None:
    for path in ("/api/v1/server", "/health", "/metrics"):
        assert (await world.get(path)).status == 299

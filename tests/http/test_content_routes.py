"""Listings, files out of NARs and debug info as clients of a real server see them."""

from __future__ import annotations

import base64
import gzip
import hashlib
import http.client
import json
import re
import subprocess
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote_to_bytes

import msgspec
import pytest

from icehouse.http.folder_page import MAX_ROWS, FolderPage, render_folder_page
from icehouse.nix import nix32
from icehouse.nix.excerpts import show_name
from icehouse.nix.listing import ListedDirectory, ListedRegular
from icehouse.nix.nar_write import Directory, Node, Regular, Symlink, write_nar
from tests.http.running import Answer, Pieces, RunningServer
from tests.rules.samples import noise
from tests.services.publishing import path_body

DOCS, NOTE, DEBUG = f"{'1' * 32}-docs-1.0", f"{'2' * 32}-note.html", f"{'3' * 32}-docs-debug"
BUILD_ID = "ab" + "cd" * 19
LARGE = noise("large", 3_000_000)
HOSTILE = [
    b"<script>alert(1)<script>",
    b'"onclick="x',
    b"a b#c?d&e;f=g",
    b"100%2fsure",
    b"new\nline",
    b"\xff\xfe",
    "caf\u00e9".encode(),
    "\u202egnp.exe".encode(),
    b"...",
    b"~",
    b"back\\slash",
]

TREES: dict[str, Node] = {
    DOCS: Directory(
        {
            b"bin": Directory({b"run": Regular(b"\x7fELF\0\0", executable=True)}),
            b"doc": Symlink(b"share/doc"),
            b"hostile": Directory({name: Regular(name) for name in sorted(HOSTILE)}),
            b"loop": Symlink(b"loop"),
            b"note": Symlink(f"/nix/store/{NOTE}".encode()),
            b"share": Directory(
                {
                    b"doc": Directory(
                        {
                            b"README": Regular("Gr\u00fc\u00dfe\n".encode() * 1000),
                            b"archive.tar.gz": Regular(b"\x1f\x8b"),
                            b"empty": Regular(b""),
                            b"index.html": Regular(b"<script>alert(document.cookie)</script>"),
                            b"large.bin": Regular(LARGE),
                            b"latin1.css": Regular(b"/* caf\xe9 */"),
                            b"picture.svg": Regular(b"<svg/>"),
                            b"unknown": Regular(b"\x00\x01"),
                        }
                    )
                }
            ),
        }
    ),
    NOTE: Regular(b"<p>A store path that is a file"),
    DEBUG: Directory(
        {
            b"lib": Directory(
                {
                    b"debug": Directory(
                        {b".build-id": Directory({b"ab": Directory({b"cd" * 19 + b".debug": Regular(LARGE)})})}
                    )
                }
            )
        }
    ),
}
NARS = {base_name: b"".join(write_nar(tree)) for base_name, tree in TREES.items()}


def fill(server: RunningServer, name: str, *, is_public: bool) -> str:
    server.create_cache(name, is_public=is_public)
    nars = [server.upload(name, nar) for nar in NARS.values()]
    answer = server.ask("POST", f"/api/v1/caches/{name}/nars", msgspec.json.encode({"nars": nars}))
    assert [nar["state"] for nar in answer.json()["results"]] == ["stored"] * len(nars)
    paths = [path_body(base_name, nar) for base_name, nar in NARS.items()]
    answer = server.ask("POST", f"/api/v1/caches/{name}/paths", msgspec.json.encode({"paths": paths}))
    assert answer.status == 200, answer.body
    return name


@pytest.fixture(scope="module")
def public(server: RunningServer) -> str:
    return fill(server, "public", is_public=True)


@pytest.fixture(scope="module")
def private(server: RunningServer) -> str:
    return fill(server, "private", is_public=False)


def get(server: RunningServer, path: str, *, method: str = "GET", **headers: str) -> Answer:
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    return server.ask(method, path, token="", headers=sent)


def test_listing_is_json_made_from_the_nar(server: RunningServer, public: str) -> None:
    answer = get(server, f"/{public}/{DOCS[:32]}.ls")
    assert (answer.status, answer.headers["content-type"]) == (200, "application/json")
    assert answer.headers["cache-control"] == "public, max-age=3600"
    document = json.loads(answer.body.decode(errors="surrogateescape"))
    assert document["version"] == 1
    large = document["root"]["entries"]["share"]["entries"]["doc"]["entries"]["large.bin"]
    assert NARS[DOCS][large["narOffset"] :][: large["size"]] == LARGE
    assert document["root"]["entries"]["bin"]["entries"]["run"]["executable"] is True
    assert get(server, f"/{public}/{DOCS[:32]}.ls", If_None_Match=answer.headers["etag"]).status == 304


PLACES = [
    f"{DOCS[:32]}.ls",
    f"debuginfo/{BUILD_ID}",
    f"debuginfo/{BUILD_ID}.debug",
    f"buildid/{BUILD_ID}/debuginfo",
    f"serve/{DOCS[:32]}",
    f"serve/{DOCS[:32]}/share/doc/",
    f"serve/{DOCS[:32]}/share/doc/README",
    f"serve/{NOTE[:32]}",
]


@pytest.mark.parametrize("place", PLACES)
def test_head_says_what_get_says(server: RunningServer, public: str, place: str) -> None:
    got, head = (get(server, f"/{public}/{place}", method=method) for method in ("GET", "HEAD"))
    for answer in (got, head):
        assert answer.status == 200
        del answer.headers["x-request-id"], answer.headers["date"]
    assert head.headers == got.headers
    assert head.body == b""
    assert int(head.headers["content-length"]) == len(got.body)


@pytest.mark.parametrize("place", PLACES)
def test_private_cache_shows_nothing_to_who_may_not_pull(server: RunningServer, private: str, place: str) -> None:
    answer = server.ask("GET", f"/{private}/{place}", token="")
    assert (answer.status, answer.headers["www-authenticate"]) == (401, 'Basic realm="icehouse"')
    stranger = server.create_token("pull", pattern="other-*")
    assert server.ask("GET", f"/{private}/{place}", token=stranger).status == 404
    allowed = server.ask("GET", f"/{private}/{place}")
    assert (allowed.status, allowed.headers["cache-control"]) == (200, "private, no-store")
    assert allowed.headers["vary"] == "authorization"


@pytest.mark.parametrize(
    ("place", "status"),
    [
        (f"{'9' * 32}.ls", 404),
        (f"{'e' * 32}.ls", 404),
        (f"debuginfo/{'0' * 40}.debug", 404),
        (f"debuginfo/{BUILD_ID[:-1]}", 404),
        (f"debuginfo/{BUILD_ID.upper()}", 404),
        (f"buildid/{'0' * 40}/debuginfo", 404),
        (f"buildid/{BUILD_ID}/executable", 404),
        (f"serve/{'9' * 32}/x", 404),
        (f"serve/{DOCS[:32]}/absent", 404),
        (f"serve/{DOCS[:32]}/loop", 404),
        (f"serve/{DOCS[:32]}/bin/run/x", 404),
        (f"serve/{DOCS[:32]}/bin/..", 404),
        (f"serve/{DOCS[:32]}/bin/%2e%2e/bin", 404),
        (f"serve/{DOCS[:32]}/bin%2frun", 404),
        (f"serve/{DOCS[:32]}x", 404),
        ("serve", 404),
    ],
)
def test_what_is_not_there_is_not_found(server: RunningServer, public: str, place: str, status: int) -> None:
    assert get(server, f"/{public}/{place}").status == status


@pytest.mark.parametrize(
    ("way", "kind"),
    [
        ("share/doc/README", "text/plain; charset=utf-8"),
        ("share/doc/archive.tar.gz", "application/octet-stream"),
        ("share/doc/empty", "text/plain; charset=utf-8"),
        ("share/doc/index.html", "text/html; charset=utf-8"),
        ("share/doc/large.bin", "application/octet-stream"),
        ("share/doc/latin1.css", "text/css"),
        ("share/doc/picture.svg", "image/svg+xml"),
        ("share/doc/unknown", "application/octet-stream"),
        ("bin/run", "application/octet-stream"),
        ("doc/index.html", "text/html; charset=utf-8"),
    ],
)
def test_file_is_served_with_its_type_and_can_do_nothing(
    server: RunningServer, public: str, way: str, kind: str
) -> None:
    answer = get(server, f"/{public}/serve/{DOCS[:32]}/{way}")
    assert (answer.status, answer.headers["content-type"]) == (200, kind)
    assert answer.headers["x-content-type-options"] == "nosniff"
    policy = answer.headers["content-security-policy"].split("; ")
    assert {"sandbox", "default-src 'none'"} <= set(policy)
    assert not re.search("script-src|allow-", answer.headers["content-security-policy"])


def test_file_is_served_byte_for_byte(server: RunningServer, public: str) -> None:
    assert get(server, f"/{public}/serve/{DOCS[:32]}/doc/large.bin").body == LARGE


@pytest.mark.parametrize(
    ("asked", "start", "stop"),
    [("bytes=0-0", 0, 1), ("bytes=2500000-", 2_500_000, 3_000_000), ("bytes=1048570-1048590", 1_048_570, 1_048_591)],
)
def test_range_of_a_file_is_served(server: RunningServer, public: str, asked: str, start: int, stop: int) -> None:
    answer = get(server, f"/{public}/serve/{DOCS[:32]}/doc/large.bin", Range=asked)
    assert (answer.status, answer.headers["content-range"]) == (206, f"bytes {start}-{stop - 1}/{len(LARGE)}")
    assert answer.body == LARGE[start:stop]


def test_file_that_is_known_is_not_sent_again(server: RunningServer, public: str) -> None:
    path = f"/{public}/serve/{DOCS[:32]}/share/doc/large.bin"
    etag = get(server, path, method="HEAD").headers["etag"]
    assert get(server, path, If_None_Match=etag).status == 304
    assert get(server, path, Range="bytes=0-9", If_Range='"other"').status == 200
    assert etag != get(server, f"/{public}/serve/{DOCS[:32]}/share/doc/README", method="HEAD").headers["etag"]


def test_range_behind_the_end_is_refused(server: RunningServer, public: str) -> None:
    answer = get(server, f"/{public}/serve/{DOCS[:32]}/share/doc/empty", Range="bytes=0-")
    assert (answer.status, answer.headers["content-range"]) == (416, "bytes */0")


def test_store_path_that_is_a_file_is_served_as_one(server: RunningServer, public: str) -> None:
    for way in (f"serve/{NOTE[:32]}", f"serve/{DOCS[:32]}/note"):
        answer = get(server, f"/{public}/{way}")
        assert (answer.status, answer.body) == (200, b"<p>A store path that is a file")
    assert get(server, f"/{public}/serve/{NOTE[:32]}").headers["content-type"] == "text/html; charset=utf-8"


def test_symlink_that_leads_nowhere_is_told(server: RunningServer, public: str) -> None:
    answer = get(server, f"/{public}/serve/{DOCS[:32]}/loop")
    assert answer.body == b"the symlink to 'loop' is one too many: at most 40 are followed\n"


class Page(HTMLParser):
    """What a page shows and where it leads."""

    def __init__(self, answer: Answer) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.links: list[str] = []
        self.text = ""
        self.feed(answer.body.decode())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        assert not any(name.startswith("on") for name, _ in attrs)
        self.links += [value for name, value in attrs if name == "href" and value is not None]

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.mark.parametrize("way", ["", "/", "/share/doc", "/share/doc/", "/doc", "/doc/"])
def test_folder_is_a_page_whose_links_lead_to_its_entries(server: RunningServer, public: str, way: str) -> None:
    answer = get(server, f"/{public}/serve/{DOCS[:32]}{way}")
    assert (answer.status, answer.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert answer.headers["x-content-type-options"] == "nosniff"
    page = Page(answer)
    assert {"main", "h1", "table", "caption", "th"} <= page.tags
    links = [link for link in page.links if "loop" not in link]
    assert len(links) >= 5
    assert {get(server, link).status for link in links} == {200}
    if "doc" in way:
        assert "3,000,000" in page.text
    else:
        assert "symlink to share/doc" in page.text


def test_page_of_a_folder_may_only_show_itself(server: RunningServer, public: str) -> None:
    answer = get(server, f"/{public}/serve/{DOCS[:32]}/hostile")
    policy = answer.headers["content-security-policy"]
    style = re.search(r"<style>(.*)</style>", answer.body.decode(), re.DOTALL)
    assert style
    digest = hashlib.sha256(style[1].encode()).digest()
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    assert f"'sha256-{base64.b64encode(digest).decode()}'" in policy


def test_hostile_names_are_shown_and_linked_as_what_they_are(server: RunningServer, public: str) -> None:
    answer = get(server, f"/{public}/serve/{DOCS[:32]}/hostile")
    page = Page(answer)
    assert "script" not in page.tags
    prefix = f"/{public}/serve/{DOCS[:32]}/hostile/"
    links = [link.removeprefix(prefix) for link in page.links if link.startswith(prefix)]
    assert {unquote_to_bytes(link) for link in links} == set(HOSTILE)
    for link in links:
        assert get(server, prefix + link).body == unquote_to_bytes(link)
    for shown in (r"new\nline", r"\xff\xfe", r"\u202egnp.exe", "caf\u00e9", r"back\slash", "<script>alert(1)<script>"):
        assert shown in page.text


def test_names_that_cannot_be_seen_are_shown_as_escapes() -> None:
    assert show_name(b"a\0\x1b[31m\xe2\x80\xae\xff") == r"a\x00\x1b[31m\u202e\xff"


def test_page_of_a_huge_folder_is_cut_and_leads_to_the_listing() -> None:
    entries = {b"%06d" % number: ListedRegular(1, executable=False, nar_offset=0) for number in range(MAX_ROWS + 5)}
    text = render_folder_page(FolderPage("c", DOCS, DOCS[:32], [], ListedDirectory(dict(entries)))).decode()
    assert text.count('<th scope="row">') == MAX_ROWS
    assert f'5 more are in <a href="/c/{DOCS[:32]}.ls">' in text


@pytest.mark.parametrize("suffix", ["", ".debug"])
def test_debug_info_leads_to_the_nar_that_has_the_file(server: RunningServer, public: str, suffix: str) -> None:
    answer = get(server, f"/{public}/debuginfo/{BUILD_ID}{suffix}")
    assert answer.headers["content-type"] == "application/json"
    letters = nix32.encode(hashlib.sha256(NARS[DEBUG]).digest())
    member = f"lib/debug/.build-id/ab/{'cd' * 19}.debug"
    assert answer.json() == {"archive": f"../nar/{letters}.nar.zst", "member": member}
    assert get(server, f"/{public}/debuginfo/{answer.json()['archive']}".replace("debuginfo/../", "")).status == 200
    assert get(server, f"/{public}/serve/{DEBUG[:32]}/{member}").body == LARGE


def test_debug_file_is_served_by_build_id_with_ranges(server: RunningServer, public: str) -> None:
    path = f"/{public}/buildid/{BUILD_ID}/debuginfo"
    answer = get(server, path)
    assert (answer.headers["content-type"], answer.body) == ("application/octet-stream", LARGE)
    assert get(server, path, Range="bytes=1000-1999").body == LARGE[1000:2000]


def test_curl_finds_a_real_elf_file_by_its_build_id(
    server: RunningServer, public: str, require: Callable[[str], str]
) -> None:
    elf = Path(require("curl")).read_bytes()
    note = re.search(rb"\x04\0\0\0\x14\0\0\0\x03\0\0\0GNU\0(.{20})", elf, re.DOTALL)  # elf(5), NT_GNU_BUILD_ID
    assert note
    build_id = note[1].hex()
    tree: Node = Regular(elf)
    for name in (f"{build_id[2:]}.debug", build_id[:2], ".build-id", "debug", "lib"):
        tree = Directory({name.encode(): tree})
    nar = b"".join(write_nar(tree))
    api = f"/api/v1/caches/{public}"
    assert server.ask("POST", f"{api}/nars", msgspec.json.encode({"nars": [server.upload(public, nar)]})).status == 200
    paths = msgspec.json.encode({"paths": [path_body(f"{'4' * 32}-curl-debug", nar)]})
    assert server.ask("POST", f"{api}/paths", paths).status == 200
    url = f"http://127.0.0.1:{server.port}/{public}/buildid/{build_id}/debuginfo"
    assert subprocess.run(["curl", "--silent", "--fail", url], check=True, capture_output=True).stdout == elf


LISTING = b'{"version":1,"root":{"type":"regular","size":1,"narOffset":96}}'
DEBUG_INFO = b'{"archive":"../nar/x.nar.zst","member":"lib/debug/.build-id/ab/cd.debug"}'


@pytest.mark.parametrize(
    ("place", "body"),
    [
        (f"{DOCS[:32]}.ls", LISTING),
        (f"{'9' * 32}.ls", b'{"root":{"type":"directory","entries":{"\xff":{}}},"version":1}'),
        (f"{DOCS[:32]}.ls", b" " * 10_000_000),
        (f"debuginfo/{BUILD_ID}.debug", DEBUG_INFO),
        (f"debuginfo/{'9' * 40}.debug", DEBUG_INFO),
    ],
    ids=["listing", "of a path to come", "too long to look at", "debug info", "of a build id to come"],
)
def test_what_stock_nix_uploads_is_taken_and_ours_is_served(
    server: RunningServer, public: str, place: str, body: bytes
) -> None:
    before = get(server, f"/{public}/{place}")
    assert server.ask("PUT", f"/{public}/{place}", body).status == 200
    after = get(server, f"/{public}/{place}")
    assert (after.status, after.body) == (before.status, before.body)


def test_compressed_listing_is_taken(server: RunningServer, public: str) -> None:
    path = f"/{public}/{DOCS[:32]}.ls"
    assert server.ask("PUT", path, gzip.compress(LISTING), headers={"Content-Encoding": "gzip"}).status == 200
    assert server.ask("PUT", path, gzip.compress(b"{}"), headers={"Content-Encoding": "gzip"}).status == 400
    assert server.ask("PUT", path, LISTING, headers={"Content-Encoding": "rot13"}).status == 415


@pytest.mark.parametrize(
    ("place", "body", "status"),
    [
        (f"{DOCS[:32]}.ls", b"", 400),
        (f"{DOCS[:32]}.ls", b"[]", 400),
        (f"{DOCS[:32]}.ls", b'{"version":2,"root":{}}', 400),
        (f"{DOCS[:32]}.ls", b'{"version":1}', 400),
        (f"{DOCS[:32]}.ls", b'{"version":1,"root":' + b"[" * 1_000_000, 400),
        (f"debuginfo/{BUILD_ID}.debug", b"{}", 400),
        (f"debuginfo/{BUILD_ID}.debug", b'{"archive":1,"member":"x"}', 400),
        (f"debuginfo/{BUILD_ID}.debug", DEBUG_INFO + b" " * 4096, 413),
        (f"buildid/{BUILD_ID}/debuginfo", b"x", 405),
        (f"serve/{DOCS[:32]}/share", b"x", 405),
    ],
)
def test_upload_that_is_nothing_like_it_is_refused(
    server: RunningServer, public: str, place: str, body: bytes, status: int
) -> None:
    assert server.ask("PUT", f"/{public}/{place}", body).status == status


def test_endless_listing_is_cut_off(server: RunningServer, public: str) -> None:
    body = Pieces([bytes(1 << 20)] * 65)
    try:
        assert server.ask("PUT", f"/{public}/{DOCS[:32]}.ls", body).status == 413
    except (ConnectionError, http.client.HTTPException):
        assert server.ask("GET", "/health").status == 200  # it hung up before we had sent all


@pytest.mark.parametrize("place", [f"{DOCS[:32]}.ls", f"debuginfo/{BUILD_ID}.debug"])
def test_only_who_may_push_may_upload(server: RunningServer, public: str, private: str, place: str) -> None:
    reader = server.create_token("pull")
    assert server.ask("PUT", f"/{public}/{place}", b"{}", token="").status == 401
    assert server.ask("PUT", f"/{public}/{place}", b"{}", token=reader).status == 403
    assert server.ask("PUT", f"/{private}/{place}", b"{}", token=reader).status == 403


def test_what_is_no_nar_has_no_listing(server: RunningServer, public: str) -> None:
    api = f"/api/v1/caches/{public}"
    garbage = b"not a NAR"
    nars = msgspec.json.encode({"nars": [server.upload(public, garbage)]})
    assert server.ask("POST", f"{api}/nars", nars).status == 200
    paths = msgspec.json.encode({"paths": [path_body(f"{'5' * 32}-garbage", garbage)]})
    assert server.ask("POST", f"{api}/paths", paths).status == 200
    answer = get(server, f"/{public}/{'5' * 32}.ls")
    assert (answer.status, answer.body[:40]) == (404, b"what is stored cannot be listed: NAR off")

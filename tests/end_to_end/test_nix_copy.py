"""Stock Nix of each version writes: `nix copy --to`, logs and signatures, read by the other versions."""

import json
import select
import socket
import subprocess
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from random import Random

import pytest

from tests.end_to_end.conftest import CLOSURE, Published, ServerProcess, User
from tests.end_to_end.flaky_proxy import Fault, FlakyProxy, in_turn
from tests.end_to_end.nix_clients import LINES, NixClient

pytestmark = pytest.mark.end_to_end

EXTENSIONS = {"xz": ".nar.xz", "zstd": ".nar.zst"}
COMPRESSIONS = ("none", "gzip", "bzip2", "xz", "zstd", "br", "lzip", "lz4")


@dataclass(frozen=True)
class Pusher:
    """A client with a closure that it built, and a cache that it may push to with the credentials in its netrc."""

    nix: NixClient
    server: ServerProcess
    cache: str
    server_key: str
    own_key: str
    secret_file: Path
    top: str

    @property
    def url(self) -> str:
        return f"{self.server.url}/{self.cache}"

    def copy(self, url: str, parameters: str = "") -> int:
        """Let it push its closure, signed by itself; how that ended."""
        to = f"{url}?secret-key={self.secret_file}{parameters}"
        return self.nix.try_run("nix", "copy", "--store", self.nix.root, "--to", to, self.top).returncode

    def make_reader(self, line: str, folder: Path) -> NixClient:
        """Somebody else, with an empty store and the same store directory."""
        return NixClient.make(line, folder, self.nix.environment["NIX_STORE_DIR"])

    def check(self, reader: NixClient) -> None:
        """Compare what a client pulled with what was built."""
        for path in self.nix.closure_of(self.top):
            assert reader.nar_hash_of(path) == self.nix.nar_hash_of(path)
            assert reader.dump(path) == self.nix.dump(path)


def make_pusher(server: ServerProcess, admin: User, line: str, folder: Path, name: str) -> Pusher:
    nix = NixClient.make(line, folder)
    netrc, secret, public = (folder / file for file in ("netrc", "secret", "public"))
    nix.run("nix-store", "--generate-binary-cache-key", "own-1", secret, public)
    options = ("--public", "--store-dir", nix.environment["NIX_STORE_DIR"], "--json")
    view = admin.icehouse("cache", "create", name, *options).json
    token = admin.icehouse("token", "create", "pusher", "--allow", "push", "--caches", name, "-q").out.strip()
    netrc.write_text(f"machine 127.0.0.1 login icehouse password {token}\n")
    nix.configure({"netrc-file": str(netrc)})
    top = nix.build(CLOSURE, "top")
    return Pusher(nix, server, name, view["public_keys"][0], public.read_text().strip(), secret, top)


def files_below(folder: Path) -> set[Path]:
    return {file for file in folder.rglob("*") if file.is_file()}


@pytest.fixture(scope="session")
def copied(published: Published, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Pusher]:
    """`copied("2.8", "xz")` gives somebody who pushed a closure with `nix copy` in that compression, once."""

    @cache
    def copy(line: str, compression: str) -> Pusher:
        name = f"{line.replace('.', '-')}-{compression}"
        pusher = make_pusher(published.server, published.admin, line, tmp_path_factory.mktemp(name), name)
        assert pusher.copy(pusher.url, f"&compression={compression}") == 0
        return pusher

    return copy


@pytest.fixture
def pusher(published: Published, line: str, tmp_path: Path) -> Pusher:
    """Somebody of each version who has pushed nothing yet."""
    name = f"fresh-{len(published.admin.icehouse('cache', 'list').out.splitlines())}"
    return make_pusher(published.server, published.admin, line, tmp_path / "pusher", name)


@pytest.mark.column("{compression} to {reader_line}")
@pytest.mark.parametrize("reader_line", LINES)
@pytest.mark.parametrize("compression", EXTENSIONS)
def test_what_one_version_pushed_is_pulled_by_every_version(
    copied: Callable[[str, str], Pusher], line: str, compression: str, reader_line: str, tmp_path: Path
) -> None:
    pusher = copied(line, compression)
    reader = pusher.make_reader(reader_line, tmp_path / "reader")
    reader.use_cache(pusher.url, pusher.server_key)
    reader.pull(pusher.top)
    pusher.check(reader)


@pytest.mark.column("own {compression} again")
@pytest.mark.parametrize("compression", EXTENSIONS)
def test_the_pusher_pulls_its_own_path_by_the_narinfo_that_it_remembers(pusher: Pusher, compression: str) -> None:
    with FlakyProxy(pusher.server.port, lambda _: None) as proxy:
        url = f"http://127.0.0.1:{proxy.port}/{pusher.cache}"
        assert pusher.copy(url, f"&compression={compression}") == 0
        pushed = len(proxy.exchanges)
        reader = pusher.nix.with_empty_store("again")
        reader.use_cache(url, pusher.own_key)
        reader.pull(pusher.top)
    pusher.check(reader)
    pulled = [exchange.path for exchange in proxy.exchanges[pushed:] if exchange.method == "GET"]
    assert len(pulled) == len(pusher.nix.closure_of(pusher.top))
    assert all(path.endswith(EXTENSIONS[compression]) for path in pulled), pulled  # no narinfo was asked


@pytest.mark.column("files of copied")
def test_files_of_what_one_version_pushed_are_shown_to_every_version_and_to_curl(
    copied: Callable[[str, str], Pusher], line: str, tmp_path: Path
) -> None:
    pusher = copied(line, "xz")
    text = f"{pusher.top}/share/text"
    for reader_line in LINES:
        reader = pusher.make_reader(reader_line, tmp_path / reader_line)
        listed = reader.run("nix", "store", "ls", "--store", pusher.url, f"{pusher.top}/share").split()
        assert listed == ["./text", "./top"]
        assert reader.run("nix", "store", "cat", "--store", pusher.url, text) == "text"
    hash_part = Path(pusher.top).name[:32]
    curl = ("curl", "--silent", "--fail")
    assert pusher.nix.run(*curl, f"{pusher.url}/serve/{hash_part}/share/text") == "text"
    assert f"{hash_part}/share/text" in pusher.nix.run(*curl, f"{pusher.url}/serve/{hash_part}/share")
    listing = json.loads(pusher.nix.run(*curl, f"{pusher.url}/{hash_part}.ls"))
    assert set(listing["root"]["entries"]["share"]["entries"]) == {"text", "top"}


@pytest.mark.column("8 compressions")
def test_what_was_pushed_in_each_compression_is_pulled_again_in_that_one(pusher: Pusher, tmp_path: Path) -> None:
    paths: dict[str, str] = {}
    with FlakyProxy(pusher.server.port, lambda _: None) as proxy:
        url = f"http://127.0.0.1:{proxy.port}/{pusher.cache}"
        for compression in COMPRESSIONS:
            file = tmp_path / compression
            file.write_text(f"{compression}\n" * 50_000)
            paths[compression] = pusher.nix.run("nix-store", "--store", pusher.nix.root, "--add", file)
            to = f"{url}?secret-key={pusher.secret_file}&compression={compression}"
            pusher.nix.run("nix", "copy", "--store", pusher.nix.root, "--to", to, paths[compression])
        pushed = len(proxy.exchanges)
        reader = pusher.nix.with_empty_store("again")
        reader.use_cache(url, pusher.own_key)
        for path in paths.values():
            reader.pull(path)
            assert reader.dump(path) == pusher.nix.dump(path)
    uploads = {exchange.path for exchange in proxy.exchanges[:pushed] if exchange.method == "PUT"}
    pulled = [exchange.path for exchange in proxy.exchanges[pushed:] if exchange.method == "GET"]
    assert len(pulled) == len(paths)
    assert uploads.issuperset(pulled)  # each under the name of its upload, since Nix remembers that


@pytest.mark.column("lzma refused")
def test_compression_that_is_not_read_is_refused_with_those_that_are(pusher: Pusher) -> None:
    to = f"{pusher.url}?compression=lzma"
    done = pusher.nix.try_run("nix", "copy", "--store", pusher.nix.root, "--to", to, pusher.top)
    assert done.returncode != 0
    assert "HTTP error 415" in done.stderr
    assert f"expected one of {', '.join(COMPRESSIONS)}" in done.stderr


@pytest.mark.column("CA unsigned")
def test_content_addressed_path_is_pulled_without_any_trusted_key(pusher: Pusher, line: str, tmp_path: Path) -> None:
    file = tmp_path / "source"
    file.write_text("a source\n")
    path = pusher.nix.run("nix-store", "--store", pusher.nix.root, "--add", file)
    pusher.nix.run("nix", "copy", "--store", pusher.nix.root, "--to", f"{pusher.url}?compression=zstd", path)
    reader = pusher.make_reader(line, tmp_path / "reader")
    reader.use_cache(pusher.url)
    reader.pull(path)
    assert reader.dump(path) == pusher.nix.dump(path)


@pytest.mark.column("stored once")
def test_closure_pushed_by_nix_copy_as_xz_and_by_our_client_is_stored_once(
    pusher: Pusher, published: Published, tmp_path: Path
) -> None:
    # The caches are public, so they share what is stored; and none has a path of the other's.
    user = User(published.admin.home, {**pusher.nix.environment, "HOME": str(published.admin.home)})
    twins = [f"{pusher.cache}-{name}" for name in ("second", "third")]
    for twin in twins:
        user.icehouse("cache", "create", twin, "--public", "--store-dir", pusher.nix.environment["NIX_STORE_DIR"])
    packs = published.server.data_dir / "packs"

    assert pusher.copy(pusher.url) == 0
    stored = files_below(packs)
    summary = user.icehouse("push", twins[0], "--store", str(pusher.nix.root), pusher.top, "--json").json
    assert (summary["paths_pushed"], summary["new_bytes"], summary["stored_bytes"]) == (3, 0, 0)
    assert files_below(packs) == stored

    file = tmp_path / "file"
    file.write_bytes(Random(1).randbytes(1_000_000) + pusher.top.encode())
    path = pusher.nix.run("nix-store", "--store", pusher.nix.root, "--add", file)
    user.icehouse("push", twins[0], "--store", str(pusher.nix.root), path)
    stored = files_below(packs)
    netrc = tmp_path / "netrc"
    netrc.write_text(f"machine 127.0.0.1 login icehouse password {published.server.admin_token}\n")
    pusher.nix.configure({"netrc-file": str(netrc)})
    pusher.nix.run("nix", "copy", "--store", pusher.nix.root, "--to", f"{pusher.server.url}/{twins[1]}", path)
    assert files_below(packs) == stored


@pytest.mark.column("log")
def test_a_log_that_was_copied_is_printed(pusher: Pusher, line: str, tmp_path: Path) -> None:
    assert pusher.copy(pusher.url) == 0
    nix = pusher.nix
    deriver = nix.run("nix-store", "--store", nix.root, "-q", "--deriver", pusher.top)
    nix.run("nix", "store", "copy-log", "--store", nix.root, "--to", pusher.url, deriver)
    reader = pusher.make_reader(line, tmp_path / "reader")
    assert reader.run("nix", "log", "--store", pusher.url, pusher.top) == "made top"


@pytest.mark.column("sign")
def test_a_path_that_is_signed_in_the_cache_is_trusted_for_that_key_alone(
    pusher: Pusher, line: str, tmp_path: Path
) -> None:
    assert pusher.copy(pusher.url) == 0
    nix = pusher.nix
    secret, public = tmp_path / "later-secret", tmp_path / "later-public"
    nix.run("nix-store", "--generate-binary-cache-key", "later-1", secret, public)
    command = ("nix", "store", "sign", "--store", pusher.url, "--key-file", secret, "--recursive", pusher.top)
    nix.run(*command)
    reader = pusher.make_reader(line, tmp_path / "reader")
    reader.use_cache(pusher.url, public.read_text().strip())
    reader.pull(pusher.top)
    pusher.check(reader)


@pytest.mark.column("cut push")
@pytest.mark.parametrize("line", ["2.26", "2.34"])  # 2.8 waits five minutes before it gives up a push that was cut
def test_a_push_that_was_cut_is_completed_by_the_next(pusher: Pusher, line: str, tmp_path: Path) -> None:
    script = in_turn(r"^PUT .*/nar/", [Fault(cut_request_after=100)])
    with FlakyProxy(pusher.server.port, script) as proxy:
        url = f"http://127.0.0.1:{proxy.port}/{pusher.cache}"
        first = pusher.copy(url)
        assert pusher.copy(url) == 0
    assert (first == 0) == (line == "2.34")  # since 2.33 Nix can send a body again
    reader = pusher.make_reader(line, tmp_path / "reader")
    reader.use_cache(pusher.url, pusher.server_key)
    reader.pull(pusher.top)
    pusher.check(reader)


def test_upload_that_finds_no_room_to_wait_is_sent_again_when_there_is_some(pusher: Pusher, tmp_path: Path) -> None:
    big = tmp_path / "big"
    big.write_bytes(Random(1).randbytes(3_000_000))
    path = pusher.nix.run("nix-store", "--store", pusher.nix.root, "--add", big)
    token = (tmp_path / "pusher" / "netrc").read_text().split()[-1]
    head = f"PUT /{pusher.cache}/nar/{'0' * 52}.nar HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n"
    command = ("nix", "copy", "--store", pusher.nix.root, "--to", f"{pusher.url}?compression=none", path)
    with ExitStack() as stack:
        others = [
            stack.enter_context(socket.create_connection(("127.0.0.1", pusher.server.port), timeout=30))
            for _ in range(130)
        ]
        for each in others:
            each.sendall(f"{head}Expect: 100-continue\r\nContent-Length: 9\r\n\r\n".encode())
        refused = 0
        while refused < 2:  # the others are in line then
            readable, _, _ = select.select(others, [], [], 30)
            for each in readable:
                refused += each.recv(4096).startswith(b"HTTP/1.1 503")
            others = [each for each in others if each not in readable]
        copying = subprocess.Popen(command, env=pusher.nix.environment, stderr=subprocess.PIPE, text=True)
        assert copying.stderr is not None
        told = ""
        while "retrying in" not in told:
            line = copying.stderr.readline()
            assert line, told
            told += line
    told += copying.communicate(timeout=60)[1]
    assert (copying.returncode, "uploads with this token are open" in told) == (0, True), told

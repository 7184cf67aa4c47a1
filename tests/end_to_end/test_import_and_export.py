"""Paths come from other binary caches, and go to folders, whole and checked; what is wrong stays out and is named."""

import http.server
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncGenerator, Callable, Generator
from functools import partial
from pathlib import Path

import pytest
import stamina

from icehouse.client import import_cache
from icehouse.client.import_cache import ImportCounts, ImportSettings, import_paths
from icehouse.client.logins import Login
from icehouse.client.nar_sources import FolderSource
from icehouse.client.server import connect
from icehouse.errors import Denied, InvalidFormat, Unavailable
from icehouse.nix.narinfo import parse_narinfo
from icehouse.nix.store_paths import HashPart, StorePath
from tests.client.private_nix import PrivateNix
from tests.end_to_end.conftest import CLOSURE, ServerProcess, User
from tests.end_to_end.nix_clients import SYSTEM_LINE, NixClient
from tests.s3_bucket import CREDENTIALS, serve_bucket

pytestmark = pytest.mark.end_to_end


@pytest.fixture
def store_dir(builder: PrivateNix) -> str:
    return builder.environment["NIX_STORE_DIR"]


@pytest.fixture
def cache(admin: User, store_dir: str) -> str:
    admin.icehouse("cache", "create", "team", "--public", "--store-dir", store_dir, "--no-upstream")
    return "team"


@pytest.fixture
def key(builder: PrivateNix, tmp_path: Path) -> tuple[Path, str]:
    """A secret key's file, and the public half."""
    secret = tmp_path / "secret.key"
    builder.run("nix-store", "--generate-binary-cache-key", "source-1", str(secret), str(tmp_path / "public.key"))
    return secret, (tmp_path / "public.key").read_text().strip()


@pytest.fixture
def top(builder: PrivateNix) -> str:
    return builder.build(CLOSURE, "top")


def copy(builder: PrivateNix, folder: Path, top: str, query: str) -> None:
    nix = ("nix", "--extra-experimental-features", "nix-command", "copy", "--from", str(builder.root))
    builder.run(*nix, "--to", f"file://{folder}?{query}", top)


@pytest.mark.parametrize("compression", ["none", "xz", "zstd", "bzip2", "gzip", "br"])
def test_a_folder_that_nix_wrote_is_imported_whole(
    admin: User, builder: PrivateNix, cache: str, top: str, key: tuple[Path, str], tmp_path: Path, compression: str
) -> None:
    folder = tmp_path / "source"
    copy(builder, folder, top, f"compression={compression}&secret-key={key[0]}")
    command = ("import", cache, f"file://{folder}", "--trusted-public-key", key[1])
    done = admin.icehouse(*command, "--json").json
    assert (done["paths_imported"], done["faults"]) == (3, {})
    names = [
        signature.partition(":")[0]
        for signature in admin.icehouse("path", "info", cache, top, "--json").json["signatures"]
    ]
    assert "source-1" in names
    view = admin.icehouse("cache", "show", cache, "--json").json
    reader = NixClient.make(SYSTEM_LINE, tmp_path / "reader", builder.environment["NIX_STORE_DIR"])
    reader.use_cache(view["url"], view["public_keys"][0])
    reader.pull(top)
    again = admin.icehouse(*command, "--json").json
    assert (again["paths_imported"], again["paths_present"], again["downloaded_bytes"]) == (0, 3, 0)


@pytest.fixture
def served(tmp_path: Path) -> Generator[tuple[Path, str, list[str | None]]]:
    """A folder that is served over HTTP: the folder, its URL, and the credentials that came."""
    folder = tmp_path / "served"
    folder.mkdir()
    credentials: list[str | None] = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def do_GET(self) -> None:
            credentials.append(self.headers.get("Authorization"))
            super().do_GET()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002  as in the class above
            del format, args

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder)))
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    yield folder, f"http://127.0.0.1:{server.server_port}", credentials
    server.shutdown()
    server.server_close()


def test_a_closure_is_imported_over_http_with_a_password(
    admin: User,
    builder: PrivateNix,
    cache: str,
    top: str,
    key: tuple[Path, str],
    served: tuple[Path, str, list[str | None]],
    tmp_path: Path,
) -> None:
    folder, url, credentials = served
    copy(builder, folder, top, f"compression=xz&secret-key={key[0]}")
    base = builder.build(CLOSURE, "base")
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login ann password secret\n")
    command = ("import", cache, url, "--trusted-public-key", key[1], "--netrc-file", str(tmp_path / "netrc"), "--json")
    assert admin.icehouse(*command, base).json["paths_imported"] == 1
    (tmp_path / "list").write_text(f"{top}\n{base}\n")
    done = admin.icehouse(*command, "--paths-from", str(tmp_path / "list")).json
    assert (done["paths_imported"], done["paths_present"]) == (2, 1)
    assert set(credentials) == {"Basic YW5uOnNlY3JldA=="}
    whole = admin.try_icehouse(*command)
    assert (whole.code, "cannot be listed" in whole.err) == (1, True)


def test_a_bucket_is_imported_whole(
    admin: User, builder: PrivateNix, cache: str, top: str, key: tuple[Path, str], tmp_path: Path
) -> None:
    folder = tmp_path / "source"
    copy(builder, folder, top, f"compression=zstd&secret-key={key[0]}")
    user = User(admin.home, {**admin.environment, **CREDENTIALS})
    with serve_bucket() as bucket:
        files = [file for file in folder.rglob("*") if file.is_file()]
        bucket.objects = {f"c/{file.relative_to(folder)}": file.read_bytes() for file in files}
        command = ("import", cache, bucket.url("/c"), "--trusted-public-key", key[1])
        assert user.icehouse(*command, "--json").json["paths_imported"] == 3
        refused = admin.try_icehouse(*command)
    assert (refused.code, refused.err.count("\n")) == (3, 1)


def damage(folder: Path, path: str, how: str) -> None:
    narinfo = folder / f"{Path(path).name[:32]}.narinfo"
    nar = folder / next(line[5:] for line in narinfo.read_text().splitlines() if line.startswith("URL: "))
    data = bytearray(nar.read_bytes())
    match how:
        case "flipped":
            data[len(data) // 2] ^= 1
            nar.write_bytes(data)
        case "cut":
            nar.write_bytes(data[:-8])
        case "longer":
            nar.write_bytes(data + bytes(8))
        case "gone":
            nar.unlink()
        case "unsigned":
            lines = narinfo.read_text().splitlines(keepends=True)
            narinfo.write_text("".join(line for line in lines if not line.startswith("Sig: ")))
        case "absent":
            narinfo.unlink()
        case _:
            narinfo.write_text(narinfo.read_text().replace("URL: nar/", "URL: ../nar/"))


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("flipped", "its narinfo says sha256:"),
        ("cut", "its narinfo says"),
        ("longer", "decodes to more than"),
        ("gone", "is not there"),
        ("unsigned", "no good signature by a trusted key"),
        ("absent", "does not have it"),
        ("elsewhere", "leads out of that folder"),
    ],
)
def test_what_is_wrong_stays_out_with_what_needs_it_and_the_rest_comes(
    admin: User, builder: PrivateNix, cache: str, top: str, key: tuple[Path, str], tmp_path: Path, how: str, reason: str
) -> None:
    folder = tmp_path / "source"
    copy(builder, folder, top, f"compression=none&secret-key={key[0]}")
    large = builder.build(CLOSURE, "large")
    damage(folder, large, how)
    done = admin.try_icehouse("import", cache, str(folder), "--trusted-public-key", key[1], "--json", top)
    assert done.code == 1
    faults = done.json["faults"]
    assert done.json["paths_imported"] == 1
    assert any(reason in text for text in faults.values()), faults
    assert faults[Path(top).name] == f"it needs {Path(large).name}"
    assert "Traceback" not in done.err
    assert admin.try_icehouse("path", "info", cache, top).code == 4
    assert admin.try_icehouse("path", "info", cache, builder.build(CLOSURE, "base")).code == 0


def test_whom_to_trust_must_be_said(admin: User, tmp_path: Path) -> None:
    assert admin.try_icehouse("import", "team", str(tmp_path)).code == 2
    both = ("--no-check-sigs", "--trusted-public-key", "a:b")
    assert admin.try_icehouse("import", "team", str(tmp_path), *both).code == 2


class BreakingSource(FolderSource):
    """A folder of which so many NARs can be read, before the door is shut."""

    def __init__(self, folder: Path, nars: int) -> None:
        super().__init__(folder)
        self.nars = nars

    async def read(self, place: str) -> AsyncGenerator[bytes]:
        if place.startswith("nar/"):
            self.nars -= 1
            if self.nars < 0:
                raise Denied(place)
        async for piece in super().read(place):
            yield piece


async def test_an_import_that_broke_off_goes_on_where_it_stopped(
    admin: User,
    builder: PrivateNix,
    server: ServerProcess,
    cache: str,
    top: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = tmp_path / "source"
    copy(builder, folder, top, "compression=zstd")
    monkeypatch.setattr(import_cache, "WINDOW_PATHS", 1)
    spool = tmp_path / "spool"
    spool.mkdir()
    settings = ImportSettings(None, spool=spool)
    async with connect(Login(server.url, server.admin_token)) as client:
        broken = ImportCounts()
        with pytest.raises(Denied):
            await import_paths(client, cache, BreakingSource(folder, 2), None, settings=settings, counts=broken)
        assert 1 <= broken.push.paths_pushed <= 2
        assert list(spool.iterdir()) == []
        rest = ImportCounts()
        wanted: list[HashPart] = [StorePath.parse(Path(top).name).hash_part]
        await import_paths(client, cache, FolderSource(folder), wanted, settings=settings, counts=rest)
    assert rest.push.paths_pushed == 3 - broken.push.paths_pushed
    assert rest.faults == {}
    assert admin.icehouse("path", "info", cache, top).code == 0


class AbsentSource(FolderSource):
    """A folder whose NARs cannot be read, for now."""

    async def read(self, place: str) -> AsyncGenerator[bytes]:
        if place.startswith("nar/"):
            raise Unavailable(place)
        async for piece in super().read(place):
            yield piece


async def test_a_source_that_goes_away_ends_the_import_and_is_no_fault_of_its_paths(
    server: ServerProcess, builder: PrivateNix, cache: str, top: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "source"
    copy(builder, folder, top, "compression=zstd")
    source, settings = AbsentSource(folder), ImportSettings(None)
    async with connect(Login(server.url, server.admin_token)) as client:
        with stamina.set_testing(True, attempts=1):
            counts = ImportCounts()
            await import_paths(client, cache, source, None, settings=settings, counts=counts)
            assert len(counts.faults) == 3  # a few may fail
            monkeypatch.setattr(import_cache, "MAX_OUTAGES", 1)
            with pytest.raises(Unavailable):
                await import_paths(client, cache, source, None, settings=settings, counts=ImportCounts())
            monkeypatch.setattr(import_cache, "MAX_PATHS", 2)
            with pytest.raises(InvalidFormat, match="names more than 2 paths"):
                await import_paths(client, cache, source, None, settings=settings, counts=ImportCounts())


def test_an_export_is_a_cache_for_nix_and_can_be_imported(
    admin: User, builder: PrivateNix, cache: str, top: str, store_dir: str, tmp_path: Path
) -> None:
    admin.icehouse("push", cache, "--store", str(builder.root), top)
    key = admin.icehouse("cache", "show", cache, "--json").json["public_keys"][0]
    folder = tmp_path / "stick"
    base = builder.build(CLOSURE, "base")
    first = admin.icehouse("export", cache, str(folder), base, "--json").json
    assert (first["paths"], first["paths_exported"]) == (1, 1)
    second = admin.icehouse("export", cache, str(folder), "--json").json
    assert (second["paths"], second["paths_present"], second["paths_exported"]) == (3, 1, 2)
    third = admin.icehouse("export", cache, str(folder), top, "--json").json
    assert (third["paths_present"], third["read_bytes"]) == (3, 0)

    reader = NixClient.make(SYSTEM_LINE, tmp_path / "reader", store_dir)
    reader.use_cache(f"file://{folder}", key)
    reader.pull(top)

    admin.icehouse("cache", "create", "island", "--store-dir", store_dir, "--no-upstream")
    done = admin.icehouse("import", "island", str(folder), "--trusted-public-key", key, "--json").json
    assert done["paths_imported"] == 3


def test_an_export_since_a_time_has_what_was_pushed_since(
    admin: User, builder: PrivateNix, cache: str, top: str, tmp_path: Path
) -> None:
    admin.icehouse("push", cache, "--store", str(builder.root), top)
    for since, paths in (("1d", 3), ("2126-01-01", 0)):
        done = admin.icehouse("export", cache, str(tmp_path / since), top, "--since", since, "--json").json
        assert done["paths_exported"] == paths


def test_a_damaged_export_is_mended_by_the_next(
    admin: User, builder: PrivateNix, cache: str, top: str, tmp_path: Path
) -> None:
    admin.icehouse("push", cache, "--store", str(builder.root), top)
    folder = tmp_path / "stick"
    admin.icehouse("export", cache, str(folder), top)
    narinfo = folder / f"{Path(top).name[:32]}.narinfo"
    narinfo.unlink()  # as if it had been killed before this was written
    next((folder / "nar").iterdir()).write_bytes(b"")
    done = admin.icehouse("export", cache, str(folder), top, "--json").json
    assert done["paths_exported"] in {1, 2}  # the two may be of the same path
    shutil.rmtree(folder / "nar")
    assert admin.icehouse("export", cache, str(folder), top, "--json").json["paths_exported"] == 3


def assert_whole(folder: Path) -> None:
    """Each narinfo's NAR is there, of the size that it says, and so are the narinfos of its references."""
    for file in folder.glob("*.narinfo"):
        info = parse_narinfo(file.read_bytes())
        assert (folder / info.url).stat().st_size == info.file_size
        assert all((folder / f"{each.hash_part}.narinfo").exists() for each in info.references)


def test_an_export_that_is_killed_leaves_a_whole_cache_and_goes_on(
    admin: User, builder: PrivateNix, cache: str, top: str, tmp_path: Path, require: Callable[[str], str]
) -> None:
    admin.icehouse("push", cache, "--store", str(builder.root), top)
    admin.icehouse("export", cache, str(tmp_path / "whole"), top)
    base, large = (f"{Path(builder.build(CLOSURE, name)).name[:32]}.narinfo" for name in ("base", "large"))
    nar = parse_narinfo((tmp_path / "whole" / large).read_bytes()).url
    exported: list[int] = []
    for number, target in enumerate(("nix-cache-info", nar, base, large, f"{Path(top).name[:32]}.narinfo")):
        folder = tmp_path / f"stick-{number}"
        # The rename that makes this file appear is the last thing that happens.
        partial_file = (folder / target).with_name(f".{Path(target).name}.partial")
        strace = [require("strace"), "-qq", "-f", "-o", "/dev/null", "-P", str(partial_file)]
        killing = ["-e", "trace=rename", "-e", "inject=rename:signal=KILL"]
        command = [*strace, *killing, sys.executable, "-m", "icehouse", "export", cache, str(folder), top]
        done = subprocess.run(command, env=admin.environment, capture_output=True, check=False)
        assert done.returncode == -signal.SIGKILL
        assert_whole(folder)
        exported.append(len(list(folder.glob("*.narinfo"))))
        assert admin.icehouse("export", cache, str(folder), top, "--json").json["paths"] == 3
        assert_whole(folder)
        assert len(list(folder.glob("*.narinfo"))) == 3
    assert exported[:2] == [0, 0]
    assert len(set(exported[2:])) == 3


def test_an_absent_path_is_not_exported_and_told(admin: User, cache: str, top: str, tmp_path: Path) -> None:
    done = admin.try_icehouse("export", cache, str(tmp_path / "stick"), top)
    assert (done.code, "does not have" in done.err) == (4, True)

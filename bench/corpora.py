"""What the measurements are made on: closures that real Nix built from Debian's sources and packages.

All of it lies in the folder ``$ICEHOUSE_BENCH_DIR`` (``~/.cache/icehouse-bench`` without it), is made once, and is made
again when the expressions beside this module change.
"""

import hashlib
import json
import os
import random
import shutil
import subprocess
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from bench.debian import Debian, Download
from bench.nix_store import NixStore
from bench.sameness import compare_closures

_EXPRESSIONS = Path(__file__).with_name("nix")
_INSTALLER = Path(__file__).parents[1] / "scripts" / "install-debian"

_SOURCES = [
    "bzip2",
    "diffutils",
    "ed",
    "file",
    "gzip",
    "hello",
    "libffi",
    "libpng1.6",
    "lua5.4",
    "lz4",
    "lzo2",
    "mawk",
    "patch",
    "pcre2",
    "sed",
    "tree",
    "zlib",
]
_LIBC = ["libc6", "libc6-dev"]
_TREES = [
    "bash",
    "binutils-x86-64-linux-gnu",
    "coreutils",
    "cpp-12",
    "fonts-dejavu-core",
    "git",
    "iso-codes",
    "libglib2.0-0",
    "libgnutls30",
    "libicu72",
    "libpython3.11-minimal",
    "libpython3.11-stdlib",
    "libssl3",
    "libstdc++-12-dev",
    "locales",
    "manpages",
    "manpages-dev",
    "ncurses-term",
    "perl-modules-5.36",
    "systemd",
    "texinfo",
    "tzdata",
    "vim-runtime",
    "wget",
]
_LARGE_BYTES = 200_000_000
_HUGE_BYTES = 4 << 30
_UPLOAD_BYTES = 1 << 30
_BLOCK_BYTES = 500_000
_CHAIN_PATHS = 200

_PROGRAMS = {
    "nix-build": "nix-bin",
    "gcc": "gcc",
    "make": "make",
    "dpkg-deb": "dpkg",
    "xz": "xz-utils",
    "bzip2": "bzip2",
    "wrk": "wrk",
    "curl": "curl",
}


@dataclass(frozen=True, slots=True)
class Corpus:
    """Closures in a store with a physical root of its own. *second_roots* are a rebuild of *first_roots*, or none."""

    store_root: Path
    first_roots: tuple[str, ...]
    second_roots: tuple[str, ...] = ()

    @property
    def store(self) -> NixStore:
        """The store that holds them."""
        return NixStore(self.store_root)


def bench_folder() -> Path:
    """Where corpora and scratch files lie."""
    default = Path.home() / ".cache" / "icehouse-bench"
    folder = Path(os.environ.get("ICEHOUSE_BENCH_DIR") or default)
    folder.mkdir(parents=True, exist_ok=True)
    return folder.resolve()


def install_missing_programs() -> None:
    """Install by apt the programs that measurements use and that are missing; the installer says so first."""
    missing = sorted({package for program, package in _PROGRAMS.items() if shutil.which(program) is None})
    if missing:
        subprocess.run([_INSTALLER, *missing], check=True)


def make_rebuild_corpus(workdir: Path) -> Corpus:
    """Two closures of over 300 MB: C packages and fixed trees, built against two copies of libc.

    Each has one root, a profile that links to all else. Every path of the second is new, and its contents are equal
    but for store hashes; that is checked when they are made.
    """
    return _make(workdir, "rebuild", "profile")


def make_large_corpus(workdir: Path) -> Corpus:
    """Two closures whose roots are NARs of 200 MB that stay so when compressed, with thousands of store hashes."""
    return _make(workdir, "large", "large")


def make_plain_corpus(workdir: Path) -> Corpus:
    """One path, a file of 200 MB of random bytes: a NAR without any store hash."""

    def build(store: NixStore, manifest: Path) -> Corpus:
        file = manifest.with_name("plain")
        source = random.Random(21)
        with file.open("wb") as out:
            for _ in range(_LARGE_BYTES // _BLOCK_BYTES):
                out.write(source.randbytes(_BLOCK_BYTES))
        root = store.add_file(file)
        file.unlink()
        return Corpus(store.root, (root,))

    return _make_once(workdir, "plain", build)


def make_huge_corpus(workdir: Path) -> Corpus:
    """One path, a file of 4 GiB that compresses by a third and repeats nothing, in a store of its own."""

    def build(store: NixStore, manifest: Path) -> Corpus:
        file = manifest.with_name("huge")
        _write_random(file, _HUGE_BYTES, seed=22)
        root = store.add_file(file)
        file.unlink()
        return Corpus(store.root, (root,))

    return _make_once(workdir, "huge", build, store_name="huge-store")


def make_uploads_corpus(workdir: Path) -> Corpus:
    """Four paths, each a file of 1 GiB that compresses by a third and repeats nothing."""

    def build(store: NixStore, manifest: Path) -> Corpus:
        roots: list[str] = []
        for number in range(4):
            file = manifest.with_name(f"upload-{number}")
            _write_random(file, _UPLOAD_BYTES, seed=number)
            roots.append(store.add_file(file))
            file.unlink()
        return Corpus(store.root, tuple(roots))

    return _make_once(workdir, "uploads", build, store_name="huge-store")


def _write_random(file: Path, size: int, *, seed: int) -> None:
    source = random.Random(seed)
    with file.open("wb") as out:
        for _ in range(size // (4 * _BLOCK_BYTES) + 1):
            out.write(source.randbytes(2 * _BLOCK_BYTES))
            out.write(source.randbytes(_BLOCK_BYTES).hex().encode())


def make_chain_corpus(workdir: Path) -> Corpus:
    """A closure of 200 paths of up to 200 KB, twenty references deep."""

    def build(store: NixStore, manifest: Path) -> Corpus:
        roots = store.build(_EXPRESSIONS / "chain.nix", "", manifest)
        paths = len(store.closure(*roots))
        if paths != _CHAIN_PATHS:
            raise RuntimeError(f"the closure has {paths} paths, expected {_CHAIN_PATHS}")
        return Corpus(store.root, tuple(roots))

    return _make_once(workdir, "chain", build)


def _make(workdir: Path, name: str, attribute: str) -> Corpus:
    def build(store: NixStore, manifest: Path) -> Corpus:
        roots: list[tuple[str, ...]] = []
        for half in ("first", "second"):
            started = time.perf_counter()
            roots.append(tuple(store.build(_EXPRESSIONS / "rebuild.nix", f"{half}.{attribute}", manifest)))
            print(f"{name}: built the {half} half in {time.perf_counter() - started:.0f} s", flush=True)
        first, second = (store.closure(*half_roots) for half_roots in roots)
        sameness = compare_closures(store, first, second)
        if sameness.shared or sameness.differing:
            raise RuntimeError(f"not a rebuild: shared {sameness.shared}, differing {sameness.differing}")
        print(
            f"{name}: {sameness.paths} paths a half, {sameness.nar_bytes:,} NAR bytes, {sameness.store_hashes:,} store "
            f"hashes; all of the second are new and equal but for store hashes",
            flush=True,
        )
        return Corpus(store.root, *roots)

    return _make_once(workdir, name, build)


def _make_once(
    workdir: Path, name: str, build: Callable[[NixStore, Path], Corpus], *, store_name: str = "store"
) -> Corpus:
    """The corpus of a former run if its expressions and inputs are unchanged, else what *build* makes."""
    store_root = workdir / store_name
    stamp = _stamp()
    record = workdir / f"{name}.json"
    if record.exists():
        kept = json.loads(record.read_text())
        if kept["stamp"] == stamp:
            return Corpus(store_root, tuple(kept["first_roots"]), tuple(kept["second_roots"]))
    print(f"{name}: building in {store_root}; the log is in its neighbour {store_root.name}-nix.conf.d", flush=True)
    install_missing_programs()
    corpus = build(NixStore(store_root), _write_manifest(workdir))
    fields = asdict(corpus) | {"store_root": str(store_root), "stamp": stamp}
    record.write_text(json.dumps(fields, indent=2) + "\n")
    return corpus


def _write_manifest(workdir: Path) -> Path:
    """Fetch what the expressions are built from; the file that tells them where it is."""
    file = workdir / "manifest.json"
    if file.exists() and json.loads(file.read_text())["stamp"] == _stamp():
        return file
    debian = Debian(workdir / "debian")
    facts = {
        "stamp": _stamp(),
        "sources": _described(debian.fetch_sources(_SOURCES)),
        "debs": _described(debian.fetch_debs(_LIBC + _TREES)),
        "trees": _TREES,
        "large_bytes": _LARGE_BYTES,
        "chain_paths": _CHAIN_PATHS,
    }
    file.write_text(json.dumps(facts, indent=2) + "\n")
    return file


def _described(downloads: list[Download]) -> dict[str, dict[str, str]]:
    return {download.package: {"version": download.version, "file": str(download.file)} for download in downloads}


def _stamp() -> str:
    """Changes with all that decides a corpus, except the versions that Debian offers."""
    digest = hashlib.sha256()
    for file in sorted(_EXPRESSIONS.iterdir()):
        digest.update(file.read_bytes())
    digest.update(repr((_SOURCES, _LIBC, _TREES, _LARGE_BYTES, _CHAIN_PATHS)).encode())
    return digest.hexdigest()

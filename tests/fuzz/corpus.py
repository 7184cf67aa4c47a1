"""The inputs that fuzzing begins with: right ones of each kind that a format has, and those that campaigns kept."""

from __future__ import annotations

import base64
import functools
import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import msgspec

from icehouse.nix.compression import Compression
from icehouse.nix.nar_write import Directory, Regular, Symlink, write_nar
from icehouse.rules.access import make_token
from icehouse.rules.chunks import CutChunk
from icehouse.rules.journal import JournalEntry, JournalExternal, JournalNar, JournalPath, render_journal_entry
from icehouse.rules.packs import PackEntry, render_index, render_pack_end, render_places
from icehouse.rules.recipes import make_recipe, render_recipe
from tests.nix.compressed import MAKERS
from tests.nix.vectors import NARINFOS, VECTORS
from tests.rules.samples import KINDS, make_sample, store_hashes
from tests.services.publishing import KEY, Upload, make_chunk, nar_of

CORPUS: Final = Path(__file__).parent / "corpus"
REALISATION_ID: Final = "sha256:be0e872794b13a5e03a62ee562f732e9fb00b04b8fd37e8dace723cb3f282a79!out"

_BASE_NAME: Final = "a9sxpzbwj5l473cvkbrgcsf4chnrq6sk-top"


def kept_files(target: str) -> list[Path]:
    """What campaigns kept for *target*: finds, long mended, and inputs that reach what the others do not."""
    return sorted((CORPUS / target).glob("*"))


@functools.cache
def first_inputs(target: str) -> tuple[bytes, ...]:
    """All inputs that mutations of *target* begin with; never none."""
    make_seeds = _SEEDS.get(target) or functools.partial(_compressed, Compression(target.removeprefix("decompress-")))
    return (*make_seeds(), *(path.read_bytes() for path in kept_files(target)))


def keep(target: str, data: bytes) -> Path:
    """Write an input into the corpus. The same bytes have the same name."""
    path = CORPUS / target / hashlib.sha256(data).hexdigest()[:16]
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)
    return path


def nars() -> list[bytes]:
    tree = Directory(
        {
            b"bin": Directory({b"tool": Regular(b"#!/bin/sh\n", executable=True), b"tool2": Symlink(b"tool")}),
            b"\xff\xfe": Regular(b""),
            b"sorted": Directory({}),
            b"x" * 255: Regular(bytes(9)),
        }
    )
    deep: Directory | Regular = Regular(b"deep")
    for _ in range(63):
        deep = Directory({b"d": deep})
    made = [b"".join(write_nar(node)) for node in (tree, deep, Symlink(b"/" * 4095))]
    return [*(path.read_bytes() for path in sorted((VECTORS / "nars").glob("*.nar"))), *made]


def narinfos() -> list[bytes]:
    return [path.read_bytes() for path in NARINFOS]


def cache_infos() -> list[bytes]:
    return [(VECTORS / "narinfos" / "nix-cache-info").read_bytes(), b"StoreDir: /a/b\nWantMassQuery: 1\nPriority: 41\n"]


def realisations() -> list[bytes]:
    signature = KEY.sign(b"").render()
    objects = [{"keyName": "a-1", "sig": signature.partition(":")[2]}, signature]
    fields = {"id": REALISATION_ID, "outPath": _BASE_NAME, "dependentRealisations": {REALISATION_ID: _BASE_NAME}}
    return [msgspec.json.encode({**fields, "signatures": signatures}) for signatures in ([], [signature], objects)]


def _chunks() -> list[list[CutChunk]]:
    samples = [make_sample(kind, seed, count) for seed, kind in enumerate(KINDS) for count in (1, 3)]
    patchable = [
        CutChunk(sample.raw[:8000], tuple(place for place in sample.positions if place <= 8000 - 32), ())
        for sample in samples
        if len(sample.raw) <= 8000
    ]
    return [*([chunk] for chunk in patchable), [make_chunk(1, [0, 500], size=1000), make_chunk(2, size=400)]]


def uploads() -> list[bytes]:
    return [Upload.of(chunks).render() for chunks in _chunks()]


def _entries() -> list[list[PackEntry]]:
    return [[], *(Upload.of(chunks).entries for chunks in _chunks())]


def _indices() -> list[bytes]:
    return [render_index(entries) for entries in _entries()]


def _pack_ends() -> list[bytes]:
    return [render_pack_end(entries) for entries in _entries()]


def _places() -> list[bytes]:
    return [render_places(entry.places) for entries in _entries() for entry in entries]


def _recipes() -> list[bytes]:
    hashes = store_hashes("recipes", 3)
    recipes = [make_recipe([1, 2, 3, 7, 8, 2**40], [*hashes, hashes[0]]), make_recipe([300], []), make_recipe([], [])]
    return [render_recipe(recipe) for recipe in recipes]


def _journal() -> list[bytes]:
    nar_hash = bytes(range(32))
    nar = JournalNar(
        nar_hash=nar_hash,
        nar_size=120,
        file_hash=nar_hash,
        file_size=90,
        chunks=bytes(32),
        hashes=store_hashes("journal", 1)[0].decode(),
        patches=b"\0\0",
    )
    path = JournalPath(store_path=_BASE_NAME, nar_hash=nar_hash, references="", signatures="", ca="text:sha256:x")
    external = JournalExternal(
        store_path=_BASE_NAME, nar_hash=nar_hash, nar_size=5, references="", signature="a:b", upstream="https://a"
    )
    entry = JournalEntry(
        cache="main",
        store_dir="/nix/store",
        is_public=True,
        created_at=1_700_000_000,
        published_by=None,
        nars=[nar],
        paths=[path],
        externals=[external],
    )
    return [render_journal_entry(entry), msgspec.json.encode(entry)]


def _texts() -> list[bytes]:
    token = make_token(bytes(range(32)))
    digest = bytes(range(32))
    texts = [
        _BASE_NAME,
        f"/nix/store/{_BASE_NAME}",
        f"{_BASE_NAME}.drv",
        "/nix/store",
        REALISATION_ID,
        "out",
        "0" * 52,
        f"sha256:{'0' * 52}",
        f"sha256:{digest.hex()}",
        f"sha256-{base64.b64encode(digest).decode()}",
        f"sha512:{'0' * 128}",
        f"fixed:r:sha256:{'0' * 52}",
        f"text:sha256:{'0' * 52}",
        KEY.render(),
        KEY.public_key.render(),
        KEY.sign(b"").render(),
        f"Bearer {token}",
        f"Basic {base64.b64encode(f'user:{token}'.encode()).decode()}",
        "main",
        "team-*",
    ]
    return [text.encode() for text in texts]


def _compressed(compression: Compression) -> list[bytes]:
    make = MAKERS[compression]
    contents = [b"", b"a", nar_of(b"text " * 300), bytes(100_000), make_chunk(3).raw]
    members = [make(data) for data in contents]
    # Several members, what xz may have between them, and what only zstd skips.
    return [*members, members[1] * 3, members[1] + bytes(4) + members[2], b"\x50\x2a\x4d\x18\x02\0\0\0ab" + members[1]]


_SEEDS: Final[dict[str, Callable[[], Sequence[bytes]]]] = {
    "nar": nars,
    "narinfo": narinfos,
    "cache-info": cache_infos,
    "realisation": realisations,
    "index": _indices,
    "pack-end": _pack_ends,
    "places": _places,
    "recipe": _recipes,
    "journal": _journal,
    "upload": uploads,
    "texts": _texts,
}

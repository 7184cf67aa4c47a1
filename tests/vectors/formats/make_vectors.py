"""Makes vectors.json, beside this file: `python -m tests.vectors.formats.make_vectors` in the project's folder.

The inputs are described in the file itself, so that another implementation can rebuild them. What they mean stands in
`docs/design/formats.md`, "Vectors".
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final, TypedDict

from blake3 import blake3

from icehouse.nix.store_paths import StoreDir
from icehouse.rules.chunks import Chunker, CutChunk, chunk_identity
from icehouse.rules.packs import NO_PLACES, PackEntry, Places, render_index, render_pack_end
from icehouse.rules.recipes import make_recipe, render_recipe
from tests.rules.samples import noise, store_hashes

VECTORS: Final = Path(__file__).with_name("vectors.json")
MIB: Final = 1024 * 1024


class Part(TypedDict, total=False):
    """A piece of an input: noise of a seed, one byte repeated, or text."""

    noise: str
    repeat: str
    size: int
    text: str


def _noise(seed: str, size: int) -> Part:
    return {"noise": seed, "size": size}


def _repeat(letter: str, size: int) -> Part:
    return {"repeat": letter, "size": size}


def _text(text: str) -> Part:
    return {"text": text}


def _path(store_hash: bytes, store_dir: str = "/nix/store") -> Part:
    return _text(f"{store_dir}/{store_hash.decode()}-example")


def build(parts: list[Part]) -> bytes:
    """The bytes that *parts* describe."""
    out = b""
    for part in parts:
        if "noise" in part:
            out += noise(part["noise"], part.get("size", 0))
        elif "repeat" in part:
            out += part["repeat"].encode() * part.get("size", 0)
        else:
            out += part.get("text", "").encode()
    return out


def _chunk_inputs() -> dict[str, tuple[str, list[Part]]]:
    hashes = store_hashes("vectors", 40)
    mixed: list[Part] = []
    for index, store_hash in enumerate(hashes):
        mixed += [_noise(f"mixed {index}", 70_000 + index), _path(store_hash)]
    # 11 bytes of directory before it: the store hash covers the bytes from 1 MiB - 10 to 1 MiB + 22.
    straddling = [_repeat("x", MIB - 21), _path(hashes[0]), _repeat("x", MIB)]
    nearly = [
        _text(f"/nix/store/{hashes[1][:31].decode()}-short /nix/store/{hashes[1].decode()}/no-dash "),
        _path(hashes[1]),
    ]
    return {
        "one byte": ("/nix/store", [_text("x")]),
        "store hashes, and what only looks like them": ("/nix/store", nearly),
        "another store directory": ("/gnu/store", [_path(hashes[2]), _path(hashes[3], "/gnu/store")]),
        "store paths one after another": ("/nix/store", [_path(hashes[index]) for index in (4, 4, 5)]),
        "1 MiB of noise is one chunk": ("/nix/store", [_noise("one chunk", MIB)]),
        "1 MiB and a byte are cut": ("/nix/store", [_noise("one chunk", MIB + 1)]),
        "4 MiB of noise": ("/nix/store", [_noise("four", 4 * MIB)]),
        "3 MiB of one byte": ("/nix/store", [_repeat("x", 3 * MIB)]),
        "a cut inside a store hash": ("/nix/store", straddling),
        "noise and store paths": ("/nix/store", mixed),
    }


def _cut(nar: bytes, store_dir: str) -> list[CutChunk]:
    chunker = Chunker(StoreDir.parse(store_dir))
    return [*chunker.feed(nar), *chunker.finish()]


def _chunks() -> list[dict[str, object]]:
    cases: list[dict[str, object]] = []
    for name, (store_dir, parts) in _chunk_inputs().items():
        nar = build(parts)
        chunks = [
            {
                "raw_bytes": len(chunk.raw),
                "positions": list(chunk.positions),
                "hashes": [store_hash.decode() for store_hash in chunk.hashes],
                "identity": chunk_identity(chunk.raw, chunk.positions).hex(),
            }
            for chunk in _cut(nar, store_dir)
        ]
        cases.append(
            {"name": name, "store_dir": store_dir, "input": parts, "blake3": blake3(nar).hexdigest(), "chunks": chunks}
        )
    return cases


def _entry(number: int, sizes: tuple[int, int], places: Places = NO_PLACES) -> PackEntry:
    return PackEntry(noise(f"identity {number}", 32), sizes[0], sizes[1], places)


def _packs() -> list[dict[str, object]]:
    two = Places((0, 100_000), (9, 70_000), is_split=False)
    split = Places((7,), (28,), is_split=True)
    cases: dict[str, list[PackEntry]] = {
        "empty": [],
        "one chunk without store hashes": [_entry(0, (300, 1000))],
        "of each kind": [_entry(1, (127, 128)), _entry(2, (90_000, 200_000), two), _entry(3, (80, 46), split)],
    }
    return [
        {
            "name": name,
            "entries": [
                {
                    "identity": entry.identity.hex(),
                    "stored_bytes": entry.stored_bytes,
                    "raw_bytes": entry.raw_bytes,
                    "positions": list(entry.places.positions),
                    "patch_offsets": list(entry.places.patch_offsets),
                    "is_split": entry.places.is_split,
                }
                for entry in entries
            ],
            "index": render_index(entries).hex(),
            "end": render_pack_end(entries).hex(),
        }
        for name, entries in cases.items()
    ]


def _recipes() -> list[dict[str, object]]:
    first, second = store_hashes("recipe vectors", 2)
    cases: dict[str, tuple[list[int], list[bytes]]] = {
        "one chunk": ([1], []),
        "runs and a chunk used twice": ([7, 8, 9, 7, 300, 301], []),
        "store hashes": ([5, 6], [first, second, first]),
        "large numbers": ([2**40, 2**40 + 1, 2**61], [second]),
    }
    return [
        {
            "name": name,
            "chunks": numbers,
            "hashes": [store_hash.decode() for store_hash in hashes],
            "recipe": render_recipe(make_recipe(numbers, hashes)).hex(),
        }
        for name, (numbers, hashes) in cases.items()
    ]


def render_vectors() -> str:
    """The text of the file."""
    vectors = {
        "noise": {"noise": noise("vectors", 64).hex(), "store hash": store_hashes("vectors", 1)[0].decode()},
        "chunks": _chunks(),
        "packs": _packs(),
        "recipes": _recipes(),
    }
    return json.dumps(vectors, indent=1) + "\n"


if __name__ == "__main__":
    VECTORS.write_text(render_vectors())

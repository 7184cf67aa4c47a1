"""The examples of docs/design/formats.md, and the vectors, as other implementations will take them."""

from __future__ import annotations

import hashlib
import json
import re
import struct
from pathlib import Path
from typing import Final

import msgspec
import pytest
from backports.zstd import decompress
from blake3 import blake3
from pyfastcdc import FastCDC

from icehouse.rules import packs
from icehouse.rules.chunks import CHUNK_NAME_BYTES, CHUNK_PARAMETERS, IDENTITY_BYTES, MAX_CHUNK_BYTES, chunk_identity
from icehouse.rules.frames import Frame, fill_in_hashes, prove_frame
from icehouse.rules.journal import JournalEntry, parse_journal_entry, render_journal_entry
from icehouse.rules.packs import NO_PLACES, PackEntry, Places, parse_index, parse_pack_end, parse_places, parse_trailer
from icehouse.rules.recipes import MAX_RECIPE_BYTES, make_recipe, parse_recipe, render_recipe
from icehouse.rules.varints import encode_varints
from tests.rules.samples import noise, store_hashes
from tests.vectors.formats.make_vectors import VECTORS, render_vectors

PAGE: Final = (Path(__file__).parents[2] / "docs" / "design" / "formats.md").read_text()
EXAMPLES: Final = dict(re.findall(r"^```hex ([a-z-]+)\n(.*?)^```$", PAGE, flags=re.MULTILINE | re.DOTALL))

RAW: Final = b"before " + bytes(32) + b" after!"
ENTRY: Final = PackEntry(chunk_identity(RAW, (7,)), 61, 46, Places((7,), (19,), is_split=False))
ENTRIES: Final = [ENTRY, PackEntry(noise("example", 32), 300, 1000, NO_PLACES)]


def example(name: str) -> bytes:
    """The bytes of a block of the page; what follows a bar in a line is explanation."""
    return bytes.fromhex("".join(line.partition("|")[0] for line in EXAMPLES[name].splitlines()))


def test_every_example_is_checked() -> None:
    tested = re.findall(r'example\("([a-z-]+)"\)', Path(__file__).read_text())
    assert set(EXAMPLES) == set(tested)


def test_varints_of_the_page() -> None:
    rows = re.findall(r"^\| ([\d^ -]+) \| `([0-9a-f ]+)` \|$", PAGE, flags=re.MULTILINE)
    assert len(rows) == 5
    for value, encoding in rows:
        number = 2**63 - 1 if "^" in value else int(value)
        assert encode_varints([number]).hex(" ") == encoding


def test_parameters_of_the_page() -> None:
    for number in (CHUNK_PARAMETERS.min_bytes, CHUNK_PARAMETERS.average_bytes, CHUNK_PARAMETERS.max_bytes):
        assert f"| {number:,} bytes" in PAGE
    assert f"at most {MAX_CHUNK_BYTES:,} bytes" in PAGE
    assert f"at most {packs.MAX_PACK_ENTRIES:,} |" in PAGE
    assert packs.MAX_INDEX_BYTES == MAX_RECIPE_BYTES == 8 * 2**20
    assert packs.MAX_PACK_BYTES == 32 * 2**20
    assert packs.PACK_BYTES == 16 * 2**20


def test_gear_table_of_the_page_is_the_one_that_cuts() -> None:
    table = example("gear")
    digests = [hashlib.md5(bytes([value]) * 64).digest() for value in range(256)]  # noqa: S324 - a table, not a secret
    assert table == b"".join(digest[:8] for digest in digests)
    # With 64 bytes skipped, the state at the end of 66 is twice the first entry and the second.
    gear = struct.unpack(">256Q", table)
    cutter = FastCDC(1024, min_size=64, max_size=1024, normalized_chunking=0)
    for value in range(256):
        chunk = next(cutter.cut_buf(bytes(64) + bytes([0, value])))
        state = gear[0] * 2 + gear[value]
        assert chunk.length == 66
        assert chunk.gear_hash == state % 2**64


def test_identity_of_the_page() -> None:
    assert blake3(example("identity-input")).digest() == example("identity") == ENTRY.identity
    assert len(ENTRY.identity) == IDENTITY_BYTES


@pytest.mark.parametrize(
    ("data", "offset", "split"), [(example("frame"), 19, False), (example("split-frames"), 25, True)]
)
def test_frames_of_the_page_are_proved_and_patched(data: bytes, offset: int, split: bool) -> None:  # noqa: FBT001 - a column
    frame = Frame(data, (offset,), is_split=split)
    assert prove_frame(frame, 46, (7,), ENTRY.identity) == RAW
    store_hash = store_hashes("page", 1)[0]
    assert decompress(fill_in_hashes(data, [offset], [store_hash])) == b"before " + store_hash + b" after!"


def test_packs_of_the_page() -> None:
    assert len(example("frame")) == ENTRY.stored_bytes
    assert parse_places(example("places"), raw_bytes=46, stored_bytes=61) == ENTRY.places
    index, end = example("index"), example("pack-end")
    assert parse_index(index) == parse_pack_end(end) == ENTRIES
    assert packs.render_index(ENTRIES) == index
    assert packs.render_pack_end(ENTRIES) == end
    assert parse_trailer(end[-12:], pack_bytes=361 + len(end)) == len(end)
    assert example("upload-head") == struct.pack("<I", len(index))


def test_recipe_of_the_page() -> None:
    first, second = store_hashes("recipe example", 2)
    recipe = make_recipe([7, 8, 9, 7], [first, second, first])
    assert render_recipe(recipe) == example("recipe")
    assert parse_recipe(example("recipe"), max_chunks=4) == recipe


def test_journal_of_the_page() -> None:
    found = re.search(r"^```json journal\n(.*?)^```$", PAGE, flags=re.MULTILINE | re.DOTALL)
    assert found is not None
    entry = msgspec.json.decode(found[1], type=JournalEntry)
    assert entry.nars[0].chunks == ENTRY.identity[:CHUNK_NAME_BYTES]
    assert parse_journal_entry(render_journal_entry(entry)) == entry
    assert json.loads(decompress(render_journal_entry(entry))) == json.loads(found[1])
    for field in (*JournalEntry.__struct_fields__, *type(entry.nars[0]).__struct_fields__):
        assert f"`{field}`" in PAGE


def test_vectors_are_what_the_program_makes() -> None:
    """Whoever changes one byte of a format changes this file, and has to say so."""
    assert VECTORS.read_text() == render_vectors()


def test_vectors_can_be_read_back() -> None:
    vectors = json.loads(VECTORS.read_text())
    for case in vectors["packs"]:
        entries = parse_index(bytes.fromhex(case["index"]))
        assert [entry.identity.hex() for entry in entries] == [entry["identity"] for entry in case["entries"]]
        assert parse_pack_end(bytes.fromhex(case["end"])) == entries
    for case in vectors["recipes"]:
        recipe = parse_recipe(bytes.fromhex(case["recipe"]), max_chunks=len(case["chunks"]))
        assert [number for run in recipe.runs for number in range(run.first, run.first + run.count)] == case["chunks"]
        assert [recipe.hashes[index].decode() for index in recipe.patches] == case["hashes"]

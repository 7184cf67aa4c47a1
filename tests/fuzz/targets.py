"""What is fuzzed: functions of bytes that come from outside, each with what must hold for every input.

A target returns for an input that is right and for one that our code refuses as it promises. Anything else is a find.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Final

from backports.zstd import compress

from icehouse.errors import InvalidFormat, TooLarge, Unauthenticated, Unsupported
from icehouse.nix import nix32
from icehouse.nix.cache_info import parse_cache_info, render_cache_info
from icehouse.nix.compression import MAGIC_BYTES, Compression, find_compression
from icehouse.nix.content_address import ContentAddress
from icehouse.nix.decompress import FREE_BYTES, MAX_PIECE_BYTES, MAX_RATIO, Decompressor
from icehouse.nix.derivations import parse_derivation, parse_output_name
from icehouse.nix.hashes import NixHash
from icehouse.nix.listing import (
    ListedDirectory,
    ListedNode,
    ListedRegular,
    ListedSymlink,
    ListingBuilder,
    render_listing,
)
from icehouse.nix.nar_read import NarReader
from icehouse.nix.nar_write import Directory, Node, Regular, Symlink, write_nar
from icehouse.nix.narinfo import parse_narinfo, render_narinfo
from icehouse.nix.realisation import RealisationName, merge_realisations, parse_realisation, render_realisation
from icehouse.nix.signing import PublicKey, SecretKey, Signature
from icehouse.nix.store_paths import NIX_STORE, StoreDir, StorePath, parse_full, parse_hash_part
from icehouse.rules.access import parse_authorization, parse_cache_name, parse_cache_pattern
from icehouse.rules.chunks import STORE_HASH_BYTES, chunk_identity
from icehouse.rules.frames import Frame, decode_frame, fill_in_hashes, prove_frame
from icehouse.rules.journal import parse_journal_entry, render_journal_entry
from icehouse.rules.packs import (
    PackEntry,
    parse_index,
    parse_pack_end,
    parse_places,
    render_index,
    render_pack_end,
    render_places,
)
from icehouse.rules.recipes import parse_recipe, render_recipe
from tests.fuzz.corpus import REALISATION_ID

Target = Callable[[bytes], None]

MAX_DECODED_BYTES: Final = 4 * 1024 * 1024
MAX_CHUNKS: Final = 1000
_PLACED_BYTES: Final = 100_000
_REALISATION: Final = RealisationName.of_hash(REALISATION_ID)


def _read_nar(pieces: Iterable[bytes]) -> bytes:
    """The listing; nothing less than all of a NAR has one."""
    reader, builder = NarReader(), ListingBuilder()
    for piece in pieces:
        for event in reader.feed(piece):
            builder.add(event)
    reader.finish()
    return render_listing(builder.build())


def _outcome(read: Callable[[], bytes]) -> bytes | None:
    try:
        return read()
    except (InvalidFormat, TooLarge):
        return None


def _cut(data: bytes) -> Iterator[bytes]:
    """*data* in pieces of 0 to 40 bytes; the same data gives the same pieces."""
    chooser = random.Random(len(data))
    start = 0
    while start < len(data):
        end = start + chooser.randrange(41)
        yield data[start:end]
        start = end


def _tree(data: bytes, node: ListedNode) -> Node:
    match node:
        case ListedRegular(size, executable, nar_offset):
            assert nar_offset + size <= len(data)
            return Regular(data[nar_offset : nar_offset + size], executable)
        case ListedSymlink(target):
            return Symlink(target)
        case ListedDirectory(entries):
            return Directory({name: _tree(data, entry) for name, entry in entries.items()})


def _fuzz_nar(data: bytes) -> None:
    """Cut anyhow it reads alike; one tree has one NAR; the listing is JSON."""
    reader, builder = NarReader(), ListingBuilder()
    assert _outcome(partial(_read_nar, _cut(data))) == _outcome(partial(_read_nar, [data]))
    for event in reader.feed(data):
        builder.add(event)
    reader.finish()
    root = builder.build()
    assert reader.fed_bytes == len(data)
    assert b"".join(write_nar(_tree(data, root))) == data
    assert set(json.loads(render_listing(root).decode(errors="surrogateescape"))) == {"root", "version"}


def _fuzz_narinfo(data: bytes) -> None:
    """What is read renders to what reads the same."""
    info = parse_narinfo(data)
    assert parse_narinfo(render_narinfo(info)) == info


def _fuzz_cache_info(data: bytes) -> None:
    info = parse_cache_info(data)
    assert parse_cache_info(render_cache_info(info)) == info


def _fuzz_realisation(data: bytes) -> None:
    realisation = parse_realisation(data, _REALISATION)
    merged = merge_realisations(realisation, realisation)
    assert parse_realisation(render_realisation(merged), _REALISATION).out_path == realisation.out_path


def _fuzz_index(data: bytes) -> None:
    """One index has one encoding."""
    assert render_index(parse_index(data)) == data


def _fuzz_pack_end(data: bytes) -> None:
    assert render_pack_end(parse_pack_end(data)) == data


def _fuzz_places(data: bytes) -> None:
    assert render_places(parse_places(data, raw_bytes=_PLACED_BYTES, stored_bytes=_PLACED_BYTES)) == data


def _fuzz_recipe(data: bytes) -> None:
    recipe = parse_recipe(data, max_chunks=MAX_CHUNKS)
    assert recipe.chunk_count <= MAX_CHUNKS
    assert render_recipe(recipe) == data


def _fuzz_journal(data: bytes) -> None:
    """The stored form as it is, and its text: the checksum hides that from most mutations."""
    entry = parse_journal_entry(data if data.startswith(b"\x28\xb5\x2f\xfd") else compress(data))
    assert parse_journal_entry(render_journal_entry(entry)) == entry


def _fuzz_upload(data: bytes) -> None:
    """A pack as it is sent. A frame that is proved can have any hashes written into it, and gives the chunk with them.

    The identity is put right first where the frame decodes at all: it would hide what comes after its check.
    """
    size = int.from_bytes(data[:4], "little")
    start = 4 + size
    for entry in parse_index(data[4:start]):
        end = start + entry.stored_bytes
        _check_frame(entry, data[start:end])
        start = end


def _check_frame(entry: PackEntry, data: bytes) -> None:
    places = entry.places
    frame = Frame(data, places.patch_offsets, is_split=places.is_split)
    zeroed = decode_frame(_patched(frame, [bytes(STORE_HASH_BYTES)] * len(places.positions)), entry.raw_bytes)
    identity = chunk_identity(zeroed, places.positions)
    assert prove_frame(frame, entry.raw_bytes, places.positions, identity) == zeroed
    chooser = random.Random(entry.identity)
    hashes = [chooser.randbytes(STORE_HASH_BYTES) for _ in places.positions]
    decoded = decode_frame(_patched(frame, hashes), entry.raw_bytes)
    assert decoded == fill_in_hashes(zeroed, places.positions, hashes)


def _patched(frame: Frame, hashes: Sequence[bytes]) -> Frame:
    data = bytearray(frame.data)
    for offset, store_hash in zip(frame.patch_offsets, hashes, strict=True):
        data[offset : offset + STORE_HASH_BYTES] = store_hash
    return Frame(bytes(data), frame.patch_offsets, is_split=frame.is_split)


def _decode(pieces: Iterable[bytes], compression: Compression) -> bytes:
    """The hash of what comes out, within each of the decoder's bounds."""
    decompressor = Decompressor(compression, max_bytes=MAX_DECODED_BYTES)
    digest = hashlib.sha256()
    fed = total = 0
    for part in pieces:
        fed += len(part)
        for piece in decompressor.feed(part):
            assert 0 < len(piece) <= MAX_PIECE_BYTES
            total += len(piece)
            assert total <= min(MAX_DECODED_BYTES, FREE_BYTES + MAX_RATIO * fed)
            digest.update(piece)
    decompressor.finish()
    return digest.digest()


def _fuzz_decompressor(data: bytes, *, compression: Compression) -> None:
    """Cut anyhow it decodes alike."""
    whole = _outcome(partial(_decode, [data], compression))
    cut = _outcome(partial(_decode, _cut(data), compression))
    # Where the last block is empty, libzstd compares what came with the declared size only if it has the whole frame.
    assert cut == whole or (compression is Compression.ZSTD and None in {cut, whole})
    find_compression("file.nar", data[:MAGIC_BYTES])


def _fuzz_texts(data: bytes) -> None:
    """Each reader of short texts; what it reads renders to what reads the same."""
    text = data.decode("latin-1")
    for read in _TEXTS:
        try:
            value, rendered = read(text)
        except (InvalidFormat, Unauthenticated):
            continue
        assert read(rendered)[0] == value


def _read_store_dir(text: str) -> tuple[object, str]:
    store_dir = StoreDir.parse(text)
    return store_dir, store_dir.path


def _read_store_path(text: str) -> tuple[object, str]:
    store_path = StorePath.parse(text)
    assert parse_hash_part(store_path.hash_part) == store_path.hash_part
    return store_path, store_path.base_name


def _read_full_path(text: str) -> tuple[object, str]:
    store_path = parse_full(text, NIX_STORE)
    return store_path, store_path.full(NIX_STORE)


def _read_derivation(text: str) -> tuple[object, str]:
    derivation = parse_derivation(text)
    return derivation, derivation.base_name


def _read_output_name(text: str) -> tuple[object, str]:
    return parse_output_name(text), text


def _read_realisation_name(text: str) -> tuple[object, str]:
    name = RealisationName.of_hash(text)
    assert name.id == text
    return name, text


def _read_hash(text: str) -> tuple[object, str]:
    found = NixHash.parse(text)
    assert NixHash.parse(found.hex()) == NixHash.parse(found.nix32()) == found
    return found, found.sri()


def _read_nix32(text: str) -> tuple[object, str]:
    digest = nix32.decode(text, 32)
    assert nix32.encode(digest) == text
    return digest, text


def _read_content_address(text: str) -> tuple[object, str]:
    ca = ContentAddress.parse(text)
    return ca, ca.render()


def _read_signature(text: str) -> tuple[object, str]:
    signature = Signature.parse(text)
    return signature, signature.render()


def _read_public_key(text: str) -> tuple[object, str]:
    key = PublicKey.parse(text)
    key.verify(b"fingerprint", Signature(key.key_name, bytes(64)))
    return key, key.render()


def _read_secret_key(text: str) -> tuple[object, str]:
    key = SecretKey.parse(text)
    assert key.public_key.verify(b"fingerprint", key.sign(b"fingerprint"))
    return key, key.render()


def _read_authorization(text: str) -> tuple[object, str]:
    token = parse_authorization(text)
    return token, f"Bearer {token}"


def _read_cache_name(text: str) -> tuple[object, str]:
    assert parse_cache_pattern(text) == text
    return parse_cache_name(text), text


_TEXTS: Final[tuple[Callable[[str], tuple[object, str]], ...]] = (
    _read_store_dir,
    _read_store_path,
    _read_full_path,
    _read_derivation,
    _read_output_name,
    _read_realisation_name,
    _read_hash,
    _read_nix32,
    _read_content_address,
    _read_signature,
    _read_public_key,
    _read_secret_key,
    _read_authorization,
    _read_cache_name,
)
TARGETS: Final[dict[str, Target]] = {
    "nar": _fuzz_nar,
    "narinfo": _fuzz_narinfo,
    "cache-info": _fuzz_cache_info,
    "realisation": _fuzz_realisation,
    "index": _fuzz_index,
    "pack-end": _fuzz_pack_end,
    "places": _fuzz_places,
    "recipe": _fuzz_recipe,
    "journal": _fuzz_journal,
    "upload": _fuzz_upload,
    "texts": _fuzz_texts,
} | {
    f"decompress-{compression.value}": partial(_fuzz_decompressor, compression=compression)
    for compression in Compression
}
"""By name, which is also that of its folder in the corpus."""


def run_target(name: str, data: bytes) -> None:
    """Try one input.

    Raises:
        Exception: it was a find.
    """
    with contextlib.suppress(InvalidFormat, TooLarge, Unsupported):
        TARGETS[name](data)

"""What the encoders make is read by our decoder and by others."""

import bz2
import lzma
import random
import struct
import zlib

import pytest

from icehouse.nix.compression import Compression
from icehouse.nix.decompress import Decompressor
from icehouse.nix.recompress import make_compressor
from icehouse.nix.stored import has_stored_form

WITHOUT_STORED_FORM = [Compression.BZIP2, Compression.LZIP]
CONTENTS = {
    "nothing": b"",
    "a byte": b"x",
    "text": b"the same again and again " * 200_000,
    "noise": random.Random(1).randbytes(3_000_000),
    "both": random.Random(2).randbytes(700_000) + bytes(2_000_000) + random.Random(3).randbytes(70_000),
}


def compress(compression: Compression, data: bytes, piece_bytes: int) -> bytes:
    compressor = make_compressor(compression)
    pieces = [compressor.compress(data[at : at + piece_bytes]) for at in range(0, len(data), piece_bytes)]
    return b"".join([*pieces, compressor.flush()])


@pytest.mark.parametrize("compression", WITHOUT_STORED_FORM)
@pytest.mark.parametrize("contents", CONTENTS)
@pytest.mark.parametrize("piece_bytes", [1_000_003, 4_000_000])
def test_what_was_compressed_decodes_to_what_it_was(compression: Compression, contents: str, piece_bytes: int) -> None:
    data = CONTENTS[contents]
    decompressor = Decompressor(compression, max_bytes=len(data))
    assert b"".join(decompressor.feed(compress(compression, data, piece_bytes))) == data
    decompressor.finish()


@pytest.mark.parametrize("compression", WITHOUT_STORED_FORM)
def test_pieces_do_not_matter(compression: Compression) -> None:
    data = CONTENTS["both"]
    assert compress(compression, data, 999) == compress(compression, data, len(data))


@pytest.mark.parametrize("contents", CONTENTS)
def test_bzip2_is_read_by_another_decoder(contents: str) -> None:
    assert bz2.decompress(compress(Compression.BZIP2, CONTENTS[contents], 100_000)) == CONTENTS[contents]


@pytest.mark.parametrize("contents", CONTENTS)
def test_lzip_is_read_by_another_decoder(contents: str) -> None:
    file = compress(Compression.LZIP, CONTENTS[contents], 100_000)
    # The stream between header and trailer is that of the older .lzma format, which says the same in its header.
    stream = struct.pack("<BIq", 0x5D, 1 << file[5], -1) + file[6:-20]
    assert lzma.decompress(stream, lzma.FORMAT_ALONE) == CONTENTS[contents]
    assert struct.unpack("<IQQ", file[-20:]) == (zlib.crc32(CONTENTS[contents]), len(CONTENTS[contents]), len(file))


@pytest.mark.parametrize("compression", [each for each in Compression if each not in WITHOUT_STORED_FORM])
def test_others_have_a_stored_form_or_are_stored_so(compression: Compression) -> None:
    assert has_stored_form(compression) or compression is Compression.ZSTD
    with pytest.raises(ValueError, match="needs no encoder"):
        make_compressor(compression)

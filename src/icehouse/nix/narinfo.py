"""narinfos: the metadata of one store path as a binary cache serves it.

The parser refuses what some Nix in use refuses, and takes the rest as Nix does: any order, unknown fields (kept), the
last of repeated fields. Faults are reported together.

Source: Nix, src/libstore/nar-info.cc.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Literal, TypeGuard, get_args

from icehouse.errors import InvalidFormat
from icehouse.nix.content_address import ContentAddress
from icehouse.nix.excerpts import excerpt
from icehouse.nix.faults import Faults
from icehouse.nix.hashes import SHA256_SIZE_BYTES, NixHash, parse_sha256, render_sha256
from icehouse.nix.signing import Signature
from icehouse.nix.store_paths import StoreDir, StorePath, parse_full

MAX_NARINFO_BYTES: Final = 2 * 1024 * 1024
"""Room for some 30,000 references of usual length."""
MAX_NAR_SIZE: Final = 2**63 - 1
MAX_FILE_SIZE: Final = 2**64 - 1

Compression = Literal[
    "none", "br", "bzip2", "compress", "grzip", "gzip", "lrzip", "lz4", "lzip", "lzma", "lzop", "xz", "zstd"
]
"""What Nix knows how a file may be compressed; another value makes the narinfo unreadable for it."""

DEFAULT_COMPRESSION: Final[Compression] = "bzip2"
"""What an absent or empty ``Compression`` means."""

_COMPRESSIONS: Final = frozenset[str](get_args(Compression))
_CONTROL: Final = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_DECIMAL: Final = re.compile(r"[0-9]{1,20}")
_UNKNOWN_DERIVER: Final = "unknown-deriver"


@dataclass(frozen=True, slots=True)
class NarInfo:
    """The metadata of one store path. What it renders to is a narinfo that every Nix in use reads.

    *references* are sorted and distinct, and may hold the path itself. *nar_hash* is a SHA-256, 32 bytes. Sizes are in
    bytes. *extra* are fields unknown to us, in their order; Nix ignores them.
    """

    store_path: StorePath
    store_dir: StoreDir
    url: str
    compression: Compression
    file_hash: NixHash | None
    file_size: int | None
    nar_hash: bytes
    nar_size: int
    references: tuple[StorePath, ...]
    deriver: StorePath | None = None
    system: str | None = None
    signatures: tuple[Signature, ...] = ()
    ca: ContentAddress | None = None
    extra: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        """Hold the promise that Nix reads what this renders to."""
        if not self.url:
            raise InvalidFormat("narinfo URL is empty")
        if self.compression not in _COMPRESSIONS:
            raise InvalidFormat(f"narinfo Compression {excerpt(self.compression)} is none that Nix knows")
        if len(self.nar_hash) != SHA256_SIZE_BYTES:
            raise InvalidFormat(f"narinfo NarHash has {len(self.nar_hash)} bytes: expected {SHA256_SIZE_BYTES}")
        if not 0 < self.nar_size <= MAX_NAR_SIZE:
            raise InvalidFormat(f"narinfo NarSize {self.nar_size}: expected a positive number, at most {MAX_NAR_SIZE}")
        if self.file_size is not None and not 0 <= self.file_size <= MAX_FILE_SIZE:
            raise InvalidFormat(f"narinfo FileSize {self.file_size}: expected 0 to {MAX_FILE_SIZE}")
        for name, value in (("URL", self.url), ("System", self.system or ""), *self.extra):
            if _CONTROL.search(value) or _CONTROL.search(name) or not name or ":" in name:
                raise InvalidFormat(f"narinfo {excerpt(name)}: {excerpt(value)} does not fit on a line of its own")


@dataclass(slots=True)
class _Fields:
    """What was read so far; ``None`` and empty for what was not."""

    full_path: tuple[StoreDir, StorePath] | None = None
    url: str = ""
    compression: Compression = DEFAULT_COMPRESSION
    file_hash: NixHash | None = None
    file_size: int | None = None
    nar_hash: bytes | None = None
    nar_size: int = 0
    references: tuple[StorePath, ...] = ()
    deriver: StorePath | None = None
    system: str | None = None
    # A dictionary, for its keys: in order, each once.
    signatures: dict[Signature, None] = field(default_factory=dict[Signature, None])
    ca: ContentAddress | None = None
    extra: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])


def parse_narinfo(text: bytes | str) -> NarInfo:
    """Read a narinfo.

    Raises:
        InvalidFormat: some Nix would refuse it, or misread it; the message names each line and what was expected.
    """
    if len(text) > MAX_NARINFO_BYTES:
        raise InvalidFormat(f"narinfo has {len(text)} bytes: expected at most {MAX_NARINFO_BYTES}")
    if isinstance(text, bytes):
        try:
            text = text.decode()
        except UnicodeDecodeError as exc:
            raise InvalidFormat(f"narinfo byte {exc.start}: not UTF-8") from exc
    faults = Faults("narinfo")
    *lines, rest = text.split("\n")
    if rest:
        faults.add(f"line {len(lines) + 1}", "expected a newline at its end")
        lines.append(rest)
    fields = _Fields()
    for number, line in enumerate(lines, start=1):
        with faults.at(f"line {number}"):
            _read_line(line, fields)
    for name, is_there in (
        ("StorePath", fields.full_path is not None),
        ("URL", fields.url),
        ("NarHash", fields.nar_hash is not None),
        ("NarSize", fields.nar_size),
    ):
        # A field that is there and malformed has its own fault, and is not missing as well.
        if not is_there and not any(line.startswith(f"{name}: ") for line in lines):
            faults.add("", f"has no {name}")
    faults.raise_any()
    if fields.full_path is None or fields.nar_hash is None:
        raise InvalidFormat("narinfo has no StorePath or no NarHash")
    store_dir, store_path = fields.full_path
    return NarInfo(
        store_path=store_path,
        store_dir=store_dir,
        url=fields.url,
        compression=fields.compression,
        file_hash=fields.file_hash,
        file_size=fields.file_size,
        nar_hash=fields.nar_hash,
        nar_size=fields.nar_size,
        references=fields.references,
        deriver=fields.deriver,
        system=fields.system,
        signatures=tuple(fields.signatures),
        ca=fields.ca,
        extra=tuple(fields.extra),
    )


def render_narinfo(info: NarInfo) -> str:
    """The text of *info*, laid out as Nix does it, with *extra* at the end.

    Empty references keep their space after the colon, without which Nix reads the next line as their value.
    """
    lines = [f"StorePath: {info.store_path.full(info.store_dir)}\nURL: {info.url}\nCompression: {info.compression}\n"]
    if info.file_hash is not None:
        lines.append(f"FileHash: {info.file_hash.nix32()}\n")
    if info.file_size is not None:
        lines.append(f"FileSize: {info.file_size}\n")
    lines.append(f"NarHash: {render_sha256(info.nar_hash)}\nNarSize: {info.nar_size}\n")
    lines.append(f"References: {' '.join([path.base_name for path in info.references])}\n")
    if info.deriver is not None:
        lines.append(f"Deriver: {info.deriver.base_name}\n")
    if info.system is not None:
        lines.append(f"System: {info.system}\n")
    lines += [f"Sig: {signature.render()}\n" for signature in info.signatures]
    if info.ca is not None:
        lines.append(f"CA: {info.ca.render()}\n")
    lines += [f"{name}: {value}\n" for name, value in info.extra]
    return "".join(lines)


def _read_line(line: str, fields: _Fields) -> None:
    name, colon, value = line.partition(":")
    if not colon or not name:
        raise InvalidFormat(f"{excerpt(line)}: expected <field>: <value>")
    # Nix skips whatever stands here, and swallows the next line where nothing does.
    if not value.startswith((" ", "\t")):
        raise InvalidFormat(f"{name}: expected a space after the colon, also before an empty value")
    control = _CONTROL.search(line)
    if control is not None:
        raise InvalidFormat(f"{name}: control character {control[0]!r}, expected lines that end in a bare newline")
    value = value[1:]
    reader = _READERS.get(name)
    if reader is None:
        fields.extra.append((name, value))
        return
    try:
        reader(value, fields)
    except InvalidFormat as exc:
        raise InvalidFormat(f"{name}: {exc}") from exc


def _read_store_path(value: str, fields: _Fields) -> None:
    folder, _, _ = value.rpartition("/")
    store_dir = StoreDir.parse(folder)
    fields.full_path = store_dir, parse_full(value, store_dir)


def _read_url(value: str, fields: _Fields) -> None:
    if not value:
        raise InvalidFormat("expected a URL, found nothing")
    fields.url = value


def _read_compression(value: str, fields: _Fields) -> None:
    value = value or DEFAULT_COMPRESSION
    if not is_compression(value):
        raise InvalidFormat(f"{excerpt(value)}: expected one of {', '.join(sorted(_COMPRESSIONS))}")
    fields.compression = value


def is_compression(text: str) -> TypeGuard[Compression]:
    """Tell whether Nix knows a compression called *text*."""
    return text in _COMPRESSIONS


def _read_file_hash(value: str, fields: _Fields) -> None:
    fields.file_hash = NixHash.parse(value)


def _read_file_size(value: str, fields: _Fields) -> None:
    fields.file_size = _parse_decimal(value, minimum=0, maximum=MAX_FILE_SIZE)


def _read_nar_hash(value: str, fields: _Fields) -> None:
    fields.nar_hash = parse_sha256(value)


def _read_nar_size(value: str, fields: _Fields) -> None:
    fields.nar_size = _parse_decimal(value, minimum=1, maximum=MAX_NAR_SIZE)


def _read_references(value: str, fields: _Fields) -> None:
    if fields.references:
        raise InvalidFormat("stands there twice")
    fields.references = tuple(sorted({StorePath.parse(base_name) for base_name in value.split(" ") if base_name}))


def _read_deriver(value: str, fields: _Fields) -> None:
    fields.deriver = None if value == _UNKNOWN_DERIVER else StorePath.parse(value)


def _read_system(value: str, fields: _Fields) -> None:
    fields.system = value or None


def _read_signature(value: str, fields: _Fields) -> None:
    fields.signatures[Signature.parse(value)] = None


def _read_ca(value: str, fields: _Fields) -> None:
    if fields.ca is not None:
        raise InvalidFormat("stands there twice")
    fields.ca = ContentAddress.parse(value) if value else None


def _parse_decimal(text: str, *, minimum: int, maximum: int) -> int:
    if _DECIMAL.fullmatch(text) is None:
        raise InvalidFormat(f"{excerpt(text)} is not a decimal number")
    number = int(text)
    if not minimum <= number <= maximum:
        raise InvalidFormat(f"{number}: expected {minimum} to {maximum}")
    return number


_READERS: Final[dict[str, Callable[[str, _Fields], None]]] = {
    "StorePath": _read_store_path,
    "URL": _read_url,
    "Compression": _read_compression,
    "FileHash": _read_file_hash,
    "FileSize": _read_file_size,
    "NarHash": _read_nar_hash,
    "NarSize": _read_nar_size,
    "References": _read_references,
    "Deriver": _read_deriver,
    "System": _read_system,
    "Sig": _read_signature,
    "CA": _read_ca,
}

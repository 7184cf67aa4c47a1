"""What ``nix path-info --json`` prints, in every shape that it has had from Nix 2.3 to 2.35.

An array of objects with ``path`` (to 2.18), an object by full path (2.19), with ``null`` for what is absent (2.23), or
a versioned object with ``info`` by base name and structured values (formats 2 and 3 of 2.33 and 2.35).

Source: Nix, src/nix/path-info.cc and src/libstore/path-info.cc.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, TypeGuard, cast

import msgspec

from icehouse.errors import InvalidFormat
from icehouse.nix.content_address import ContentAddress, IngestionMethod
from icehouse.nix.excerpts import excerpt
from icehouse.nix.faults import Faults
from icehouse.nix.hashes import NixHash, parse_sha256
from icehouse.nix.signing import Signature
from icehouse.nix.store_paths import NIX_STORE, StoreDir, StorePath, parse_full

MAX_NAR_SIZE: Final = 2**63 - 1
_METHODS: Final = {
    "text": IngestionMethod.TEXT,
    "flat": IngestionMethod.FLAT,
    "nar": IngestionMethod.NAR,
    "git": IngestionMethod.GIT,
}
_READABLE_VERSIONS: Final = frozenset({1, 2, 3})

_Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class ValidPath:
    """A path of a local store. *references* are sorted and distinct; *registration_time* is when it came there."""

    store_path: StorePath
    nar_hash: bytes
    nar_size: int
    references: tuple[StorePath, ...]
    deriver: StorePath | None
    signatures: tuple[Signature, ...]
    ca: ContentAddress | None
    registration_time: datetime | None


@dataclass(frozen=True, slots=True)
class PathInfos:
    """What Nix said of the paths that it was asked for, in its order: those in its store, and those that are not."""

    valid: tuple[ValidPath, ...]
    unknown: tuple[StorePath, ...]


def parse_path_info_json(text: bytes | str, store_dir: StoreDir = NIX_STORE) -> PathInfos:
    """Read the output of ``nix path-info --json``, whichever Nix printed it.

    Raises:
        InvalidFormat: not JSON, none of the known shapes, another store directory, or values that no Nix prints.
    """
    try:
        document: object = msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise InvalidFormat(f"nix path-info: not JSON: {exc}") from exc
    faults = Faults("nix path-info:")
    valid: list[ValidPath] = []
    unknown: list[StorePath] = []
    for key, entry in _entries(document, store_dir):
        with faults.at(excerpt(key)):
            store_path = _parse_path(key, store_dir)
            if entry is None or entry.get("valid") is False:
                unknown.append(store_path)
            else:
                valid.append(_read_entry(store_path, entry, store_dir))
    faults.raise_any()
    return PathInfos(tuple(valid), tuple(unknown))


def _entries(document: object, store_dir: StoreDir) -> Iterable[tuple[str, _Json | None]]:
    """Find the entries in any of the shapes; ``None`` stands for a path that the store does not have."""
    if isinstance(document, list):
        for entry in cast("list[object]", document):
            if not _is_object(entry) or not isinstance(entry.get("path"), str):
                raise InvalidFormat("nix path-info: expected an array of objects that have a path")
            yield cast("str", entry["path"]), entry
        return
    if not _is_object(document):
        raise InvalidFormat("nix path-info: expected an array or an object")
    infos: object = document
    if "version" in document and "info" in document:
        if document["version"] not in _READABLE_VERSIONS:
            raise InvalidFormat(f"nix path-info: version {document['version']!r}: expected at most 3")
        if document.get("storeDir", store_dir.path) != store_dir.path:
            raise InvalidFormat(f"nix path-info: storeDir {document['storeDir']!r}: expected {store_dir}")
        infos = document["info"]
    if not _is_object(infos):
        raise InvalidFormat("nix path-info: info: expected an object")
    for key, entry in infos.items():
        if entry is not None and not _is_object(entry):
            raise InvalidFormat(f"nix path-info: {excerpt(key)}: expected an object or null")
        yield key, entry


def _read_entry(store_path: StorePath, entry: _Json, store_dir: StoreDir) -> ValidPath:
    deriver: object = entry.get("deriver")
    return ValidPath(
        store_path=store_path,
        nar_hash=_read_sha256(entry.get("narHash")),
        nar_size=_read_nar_size(entry.get("narSize")),
        references=_read_references(entry.get("references"), store_dir),
        deriver=None if deriver is None else _parse_path(_text(deriver, "deriver"), store_dir),
        signatures=_read_signatures(entry.get("signatures")),
        ca=_read_ca(entry.get("ca")),
        registration_time=_read_time(entry.get("registrationTime")),
    )


def _parse_path(text: str, store_dir: StoreDir) -> StorePath:
    return parse_full(text, store_dir) if text.startswith("/") else StorePath.parse(text)


def _read_hash(value: object, what: str) -> str:
    """A hash as text, also where it is an object of algorithm, format and digest."""
    if _is_object(value):
        algorithm, digest = _text(value.get("algorithm"), what), _text(value.get("hash"), what)
        return f"{algorithm}:{digest}"
    return _text(value, what)


def _read_sha256(value: object) -> bytes:
    return parse_sha256(_read_hash(value, "narHash"))


def _read_nar_size(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value <= MAX_NAR_SIZE:
        raise InvalidFormat(f"narSize {value!r}: expected a positive whole number")
    return value


def _read_references(value: object, store_dir: StoreDir) -> tuple[StorePath, ...]:
    return tuple(sorted({_parse_path(_text(item, "references"), store_dir) for item in _items(value, "references")}))


def _read_signatures(value: object) -> tuple[Signature, ...]:
    signatures: dict[Signature, None] = {}
    for item in [] if value is None else _items(value, "signatures"):
        if _is_object(item):
            text = f"{_text(item.get('keyName'), 'keyName')}:{_text(item.get('sig'), 'sig')}"
        else:
            text = _text(item, "signatures")
        try:
            signatures[Signature.parse(text)] = None
        except InvalidFormat:
            # Nix to 2.33 keeps any text as a signature; what is none can convince nobody, so it is left behind.
            continue
    return tuple(signatures)


def _read_ca(value: object) -> ContentAddress | None:
    if value is None or value == "":
        return None
    if not _is_object(value):
        return ContentAddress.parse(_text(value, "ca"))
    method = _METHODS.get(_text(value.get("method"), "ca method"))
    if method is None:
        raise InvalidFormat(f"ca method {value['method']!r}: expected one of {', '.join(_METHODS)}")
    return ContentAddress(method, NixHash.parse(_read_hash(value.get("hash"), "ca hash")))


def _read_time(value: object) -> datetime | None:
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool):
        raise InvalidFormat(f"registrationTime {value!r}: expected whole seconds since 1970")
    try:
        return datetime.fromtimestamp(value, UTC)
    except (OverflowError, ValueError, OSError) as exc:
        raise InvalidFormat(f"registrationTime {value}: no such time") from exc


def _is_object(value: object) -> TypeGuard[_Json]:
    return isinstance(value, dict)


def _items(value: object, what: str) -> list[object]:
    if not isinstance(value, list):
        raise InvalidFormat(f"{what}: expected an array")
    return cast("list[object]", value)


def _text(value: object, what: str) -> str:
    if not isinstance(value, str):
        raise InvalidFormat(f"{what}: expected a string")
    return value

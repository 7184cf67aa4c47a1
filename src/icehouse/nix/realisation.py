"""Realisations: which path an output of a content-addressed derivation became, in both layouts of a binary cache.

Up to Nix 2.34 they are ``realisations/<algorithm>:<hex>!<output>.doi``, named by a hash of the derivation in which its
inputs are replaced by theirs. From 2.35 on they are ``build-trace-v2/<base name of the .drv>/<output>.doi``. Neither
name can be found from the other without the derivation, and a signature covers the name.

Source: Nix, src/libstore/realisation.cc and src/libstore/binary-cache-store.cc.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Final, Self, cast

import msgspec

from icehouse.errors import InvalidFormat, TooLarge
from icehouse.nix.derivations import output_path_name, parse_derivation, parse_output_name
from icehouse.nix.excerpts import excerpt
from icehouse.nix.hashes import NixHash
from icehouse.nix.store_paths import StorePath

MAX_REALISATION_BYTES: Final = 64 * 1024
MAX_SIGNATURES: Final = 16
"""Signatures of one realisation."""

_HEX: Final = re.compile("[0-9a-f]+")
_SIGNATURE: Final = re.compile("[^:]+:.+", re.DOTALL)

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class RealisationName:
    """The output that a realisation is of, by either layout's name."""

    file_name: str
    """Below the cache."""
    output: str
    id: str | None
    """What the file says of its own name; `None` in the layout that does not repeat it."""

    @classmethod
    def of_hash(cls, text: str) -> Self:
        """Read ``<algorithm>:<hex>!<output>``.

        Raises:
            InvalidFormat: it has another form, or Nix has no such algorithm or output name.
        """
        prefix, mark, output = text.partition("!")
        _, _, digest = prefix.partition(":")
        if not mark or _HEX.fullmatch(digest) is None:
            raise InvalidFormat(f"realisation {excerpt(text)}: expected for instance sha256:<hexadecimal>!out")
        drv_hash = NixHash.parse(prefix).hex()
        if drv_hash != prefix:
            raise InvalidFormat(f"realisation {excerpt(text)}: expected {drv_hash}, the hash in hexadecimal")
        return cls(f"realisations/{text}.doi", parse_output_name(output), text)

    @classmethod
    def of_derivation(cls, derivation: str, output: str) -> Self:
        """Read the base name of a derivation, and the name of one of its outputs.

        Raises:
            InvalidFormat: one of them is malformed.
        """
        return cls(f"build-trace-v2/{parse_derivation(derivation)}/{output}.doi", parse_output_name(output), None)


@dataclass(frozen=True, slots=True)
class Realisation:
    """What a file says. The fields other than these are for others to understand, and are kept."""

    out_path: StorePath
    signatures: tuple[str | Json, ...]
    """As strings, ``name:base64``, or as objects of ``keyName`` and ``sig``; each kept in its shape."""
    fields: Json


def parse_realisation(body: bytes, name: RealisationName) -> Realisation:
    """Read the file called *name*.

    Raises:
        InvalidFormat: it is no JSON object, ``outPath`` is no base name of a store path, ``id`` is another than the
            file's name, or a signature has neither of its shapes.
        TooLarge: more than `MAX_REALISATION_BYTES` or `MAX_SIGNATURES`.
    """
    if len(body) > MAX_REALISATION_BYTES:
        raise TooLarge(f"{name.file_name} has {len(body)} bytes; at most {MAX_REALISATION_BYTES} are accepted")
    try:
        document: object = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise InvalidFormat(f"{name.file_name}: not JSON: {exc}") from exc
    if not isinstance(document, dict):
        raise InvalidFormat(f"{name.file_name}: expected a JSON object")
    fields = cast("Json", document)
    out_path = fields.get("outPath")
    if not isinstance(out_path, str):
        raise InvalidFormat(f"{name.file_name}: outPath {_shown(out_path)}: expected the base name of a store path")
    if name.id is not None and fields.get("id") != name.id:
        raise InvalidFormat(f"{name.file_name}: id {_shown(fields.get('id'))}: expected {name.id}")
    return Realisation(StorePath.parse(out_path), _parse_signatures(fields, name), fields)


def merge_realisations(present: Realisation, offered: Realisation) -> Realisation:
    """*present*, with those signatures of *offered* that it does not have, up to `MAX_SIGNATURES`.

    The same signature in the two shapes is one, and keeps the shape in which it came first.
    """
    merged: dict[str, str | Json] = {}
    for signature in (*present.signatures, *offered.signatures):
        merged.setdefault(_spell(signature), signature)
    signatures = tuple(merged.values())[:MAX_SIGNATURES]
    return Realisation(present.out_path, signatures, present.fields | {"signatures": list(signatures)})


def render_realisation(realisation: Realisation) -> bytes:
    """The file's text, compact."""
    return msgspec.json.encode(realisation.fields)


def derive_build_trace(
    name: RealisationName, out_path: StorePath, deriver: str
) -> tuple[RealisationName, bytes] | None:
    """The ``build-trace-v2`` entry that follows from a realisation and from the ``Deriver`` of its path, if one does.

    Nix 2.8 and 2.34 write there the derivation that they really ran, with its inputs resolved to paths; and that
    is the one that Nix 2.35 asks for. Several derivations can give one path, under different outputs, and the deriver
    is any of them: only if the path has the name that this output of the deriver gets, the entry is true of that.

    It has no signatures: those of the realisation cover its own name.
    """
    try:
        derivation = parse_derivation(deriver)
        if out_path.name != output_path_name(derivation, name.output):
            return None
        derived = RealisationName.of_derivation(deriver, name.output)
    except InvalidFormat:
        return None
    return derived, msgspec.json.encode({"outPath": out_path.base_name, "signatures": []})


def _parse_signatures(fields: Json, name: RealisationName) -> tuple[str | Json, ...]:
    signatures = fields.get("signatures", [])
    if not isinstance(signatures, list):
        raise InvalidFormat(f"{name.file_name}: signatures {_shown(signatures)}: expected a list")
    listed = cast("list[object]", signatures)
    if len(listed) > MAX_SIGNATURES:
        raise TooLarge(f"{name.file_name}: {len(listed)} signatures; at most {MAX_SIGNATURES} are accepted")
    return tuple(_parse_signature(signature, name) for signature in listed)


def _parse_signature(signature: object, name: RealisationName) -> str | Json:
    match signature:
        case str() if _SIGNATURE.fullmatch(signature) is not None:
            return signature
        case {"keyName": str(key_name), "sig": str(text)} if key_name and ":" not in key_name and text:
            return cast("Json", signature)
        case _:
            raise InvalidFormat(
                f"{name.file_name}: signature {_shown(signature)}: expected 'name:base64' or "
                "an object of keyName and sig"
            )


def _spell(signature: str | Json) -> str:
    return signature if isinstance(signature, str) else f"{signature['keyName']}:{signature['sig']}"


def _shown(value: object) -> str:
    return excerpt(msgspec.json.encode(value))

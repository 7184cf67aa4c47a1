"""Derivations, as far as their names go.

Source: Nix, src/libstore/derivations.cc, ``outputPathName``.
"""

from __future__ import annotations

from typing import Final

from icehouse.errors import InvalidFormat
from icehouse.nix.excerpts import excerpt
from icehouse.nix.store_paths import StorePath, parse_name

DERIVATION_EXTENSION: Final = ".drv"


def is_derivation(store_path: StorePath) -> bool:
    """Whether a store path is a derivation, by its name."""
    return store_path.name.endswith(DERIVATION_EXTENSION)


def parse_derivation(base_name: str) -> StorePath:
    """Read the base name of a derivation, ``<hash part>-<name>.drv``.

    Raises:
        InvalidFormat: it is no store path, or does not end in ``.drv``.
    """
    store_path = StorePath.parse(base_name)
    if not is_derivation(store_path):
        raise InvalidFormat(f"store path {excerpt(base_name)}: expected a derivation, with {DERIVATION_EXTENSION}")
    return store_path


def parse_output_name(text: str) -> str:
    """Read the name of a derivation's output, such as ``out`` or ``dev``.

    Raises:
        InvalidFormat: it has letters that no store path's name has, or is empty or too long.
    """
    try:
        return parse_name(text)
    except InvalidFormat as exc:
        raise InvalidFormat(f"output: {exc}") from exc


def output_path_name(derivation: StorePath, output: str) -> str:
    """The name, without hash part, of the store path that an output of *derivation* gets."""
    name = derivation.name.removesuffix(DERIVATION_EXTENSION)
    return name if output == "out" else f"{name}-{output}"

"""A folder of NixOS modules: one file a cache, and one that imports them all."""

from pathlib import Path
from typing import Final

from icehouse.errors import NotFound
from icehouse.nix.snippets import nixos_module
from icehouse.nix.used_caches import UsedCache

INDEX_NAME: Final = "icehouse.nix"
_FOLDER_NAME: Final = "icehouse"
_INDEX: Final = """\
# Written by `icehouse use --mode nixos`: imports what it wrote into the folder icehouse beside this file.
{
  imports = map (name: ./icehouse + "/${name}") (builtins.attrNames (builtins.readDir ./icehouse));
}
"""


def plan_module(folder: Path, cache: UsedCache, netrc_file: Path | None) -> dict[Path, str]:
    """What to write into which file, so that NixOS uses *cache*."""
    return {
        _module(
            folder, cache.url
        ): f"# cache: {cache.url}\n{nixos_module([cache], None if netrc_file is None else str(netrc_file))}",
        folder / INDEX_NAME: _INDEX,
    }


def find_module(folder: Path, text: str) -> Path:
    """The module of the cache with the name or URL *text*.

    Raises:
        NotFound: there is none.
    """
    for file in sorted((folder / _FOLDER_NAME).glob("*.nix")):
        url = file.read_text(encoding="utf-8").partition("\n")[0].removeprefix("# cache: ")
        if text.rstrip("/") in {url, url.rpartition("/")[2]}:
            return file
    raise NotFound(f"{folder / _FOLDER_NAME} has no module for cache {text!r}")


def _module(folder: Path, url: str) -> Path:
    host, _, name = url.partition("://")[2].rpartition("/")
    letters = "".join(letter if letter.isalnum() else "-" for letter in host)
    return folder / _FOLDER_NAME / f"{name}.{letters}.nix"

"""What to write where, so that Nix pulls from caches, for people who keep their configuration themselves."""

from collections.abc import Sequence
from enum import StrEnum
from typing import assert_never

from icehouse.nix.used_caches import UsedCache


class Snippet(StrEnum):
    """The forms that can be printed."""

    NIX_CONF = "nix.conf"
    NIXOS = "nixos"
    FLAKE = "flake"
    HOME_MANAGER = "home-manager"


def render_snippet(form: Snippet, caches: Sequence[UsedCache], netrc_file: str | None) -> str:
    """The lines for *caches*; *netrc_file* is where passwords are, for private ones."""
    match form:
        case Snippet.NIX_CONF:
            return _nix_conf(caches, netrc_file)
        case Snippet.NIXOS:
            return nixos_module(caches, netrc_file)
        case Snippet.FLAKE:
            return _flake(caches)
        case Snippet.HOME_MANAGER:
            return _home_manager(caches, netrc_file)
        case _:
            assert_never(form)


def nixos_module(caches: Sequence[UsedCache], netrc_file: str | None) -> str:
    """A NixOS module, which adds to the lists that are there."""
    lines = [
        "{",
        "  nix.settings = {",
        *_lists("    ", "substituters", "trusted-public-keys", caches),
        *([f'    netrc-file = "{netrc_file}";'] if netrc_file is not None else []),
        "  };",
        "}",
    ]
    return "\n".join(lines) + "\n"


def netrc_lines(caches: Sequence[UsedCache]) -> list[str]:
    """The lines of a netrc file for those of *caches* that are private, with a place for the token."""
    hosts = dict.fromkeys(cache.host for cache in caches if not cache.is_public)
    return [f"machine {host} login icehouse password <token>" for host in hosts]


def _nix_conf(caches: Sequence[UsedCache], netrc_file: str | None) -> str:
    lines = [
        f"extra-substituters = {' '.join(cache.url for cache in caches)}",
        f"extra-trusted-public-keys = {' '.join(_keys(caches))}",
        *([f"netrc-file = {netrc_file}"] if netrc_file is not None else []),
    ]
    return "\n".join(lines) + "\n"


def _flake(caches: Sequence[UsedCache]) -> str:
    # Nix asks the user before it heeds this, and does not take netrc-file from a flake.
    lines = [
        "# At the top level of flake.nix, beside inputs and outputs:",
        "nixConfig = {",
        *_lists("  ", "extra-substituters", "extra-trusted-public-keys", caches),
        "};",
    ]
    return "\n".join(lines) + "\n"


def _home_manager(caches: Sequence[UsedCache], netrc_file: str | None) -> str:
    lines = [
        "nix.settings = {",
        *_lists("  ", "extra-substituters", "extra-trusted-public-keys", caches),
        *([f'  netrc-file = "{netrc_file}";'] if netrc_file is not None else []),
        "};",
    ]
    return "\n".join(lines) + "\n"


def _lists(indent: str, substituters: str, keys: str, caches: Sequence[UsedCache]) -> list[str]:
    # Neither URLs of caches nor keys hold a quote, a backslash or a dollar sign.
    urls = " ".join(f'"{cache.url}"' for cache in caches)
    texts = " ".join(f'"{key}"' for key in _keys(caches))
    return [f"{indent}{substituters} = [ {urls} ];", f"{indent}{keys} = [ {texts} ];"]


def _keys(caches: Sequence[UsedCache]) -> list[str]:
    return [key for cache in caches for key in cache.public_keys]

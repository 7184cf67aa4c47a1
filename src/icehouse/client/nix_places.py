"""Which of Nix's files `icehouse use` writes: the user's, the machine's, or a module of NixOS."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

from icehouse.client.nix_configuration import OWN_FILE_NAME
from icehouse.client.private_files import config_home

_NIX_STORE: Final = Path("/nix/store")
_DETERMINATE_NAME: Final = "nix.custom.conf"
"""Determinate Nix owns nix.conf, and includes this one for its users. Source: docs.determinate.systems."""


class Mode(StrEnum):
    """Whose Nix is configured."""

    USER_NIXCONF = "user-nixconf"
    ROOT_NIXCONF = "root-nixconf"
    NIXOS = "nixos"


@dataclass(frozen=True, slots=True)
class NixPlace:
    """The files of one configuration."""

    nix_conf: Path
    netrc: Path
    """Where passwords go unless the configuration names another file."""
    is_system: bool

    @property
    def own_file(self) -> Path:
        """The file that nix.conf includes."""
        return self.nix_conf.with_name(OWN_FILE_NAME)


def user_place(environment: Mapping[str, str]) -> NixPlace:
    """The user's nix.conf: the first of ``$NIX_USER_CONF_FILES``, or ``~/.config/nix/nix.conf``."""
    first = environment.get("NIX_USER_CONF_FILES", "").split(":")[0]
    nix_conf = Path(first) if first else config_home(environment) / "nix" / "nix.conf"
    return NixPlace(nix_conf, nix_conf.with_name("netrc"), is_system=False)


def system_place(environment: Mapping[str, str], nix_conf_text: str | None = None) -> NixPlace:
    """The machine's nix.conf, which holds *nix_conf_text*: in ``$NIX_CONF_DIR``, or ``/etc/nix``."""
    folder = Path(environment.get("NIX_CONF_DIR") or "/etc/nix")
    name = _DETERMINATE_NAME if _DETERMINATE_NAME in (nix_conf_text or "") else "nix.conf"
    return NixPlace(folder / name, folder / "netrc", is_system=True)


def is_generated(file: Path) -> bool:
    """Whether a program such as NixOS or home-manager makes *file*: it lies in the store, which nobody can change."""
    return file.resolve().is_relative_to(_NIX_STORE)

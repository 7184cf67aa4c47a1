"""Fixtures with a real Nix."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.client.private_nix import CONFIGURATION, PrivateNix, store_settings


@pytest.fixture
def nix(tmp_path: Path, require: Callable[[str], str]) -> PrivateNix:
    """A Nix with an empty store."""
    require("nix-build")
    home = tmp_path / "home"
    (home / ".config/nix").mkdir(parents=True)
    (home / ".config/nix/nix.conf").write_text(CONFIGURATION)
    environment = {
        "HOME": str(home),
        "NIX_CONF_DIR": str(tmp_path / "no-system-configuration"),
        "PATH": os.environ["PATH"],
        **store_settings(tmp_path / "root"),
    }
    return PrivateNix(tmp_path / "root", environment)


@pytest.fixture
def nix_here(nix: PrivateNix, monkeypatch: pytest.MonkeyPatch) -> PrivateNix:
    """The same, with its environment as this process's, for code that starts Nix."""
    for name, value in nix.environment.items():
        monkeypatch.setenv(name, value)
    return nix

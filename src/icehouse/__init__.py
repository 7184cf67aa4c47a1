"""Icehouse: a self-hosted binary cache for Nix."""

from typing import Final

__version__: Final = "0.1.0"
"""As in pyproject.toml. To look it up among the installed packages takes a command 6 ms."""

"""Where the files that real Nix made are; tests/vectors/nix/README.md says how."""

from __future__ import annotations

from pathlib import Path
from typing import Final

VECTORS: Final = Path(__file__).parents[1] / "vectors" / "nix"
NARINFOS: Final = sorted((VECTORS / "narinfos").glob("*.narinfo"))
"""The narinfo of each path; the same name with ``.nar`` and ``.ls`` has its NAR and its listing."""

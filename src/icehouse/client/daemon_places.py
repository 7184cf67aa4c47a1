"""Where the daemon keeps its queue, where it listens, and where it looks for what was built."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from icehouse.client.spool import SYSTEM_SPOOL, Spool

FOLDER_VARIABLE: Final = "ICEHOUSE_DAEMON_DIR"


@dataclass(frozen=True, slots=True)
class DaemonPlaces:
    """The files of one daemon."""

    folder: Path
    """Only its user may enter."""
    socket: Path

    @classmethod
    def locate(cls, folder: Path | None, environment: Mapping[str, str]) -> Self:
        """Those in *folder*, else in ``$ICEHOUSE_DAEMON_DIR``, else where the XDG specification has such files."""
        chosen = folder or (Path(text) if (text := environment.get(FOLDER_VARIABLE, "")) else None)
        if chosen is not None:
            return cls(chosen.absolute(), chosen.absolute() / "socket")
        home = Path(environment.get("HOME") or Path.home())
        state = environment.get("XDG_STATE_HOME", "")
        folder = (Path(state) if state.startswith("/") else home / ".local/state") / "icehouse"
        runtime = environment.get("XDG_RUNTIME_DIR", "")
        return cls(folder, Path(runtime) / "icehouse" / "socket" if runtime.startswith("/") else folder / "socket")

    @property
    def queue(self) -> Path:
        """The queue's file."""
        return self.folder / "queue.db"

    @property
    def lock(self) -> Path:
        """Locked by the daemon that runs."""
        return self.folder / "lock"

    @property
    def spool(self) -> Path:
        """The spool of a Nix of the daemon's own user."""
        return self.folder / "spool"

    def spools(self, chosen: Path | None) -> list[Spool]:
        """Those that are there and ours: *chosen*, or the user's and the machine's."""
        folders = [self.spool, SYSTEM_SPOOL] if chosen is None else [chosen]
        return [Spool(folder) for folder in folders if os.access(folder / "new", os.R_OK | os.W_OK | os.X_OK)]

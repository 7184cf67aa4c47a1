"""Learning which paths a store got, while it gets them.

Works for a store of a Nix daemon as for one's own: whoever may list the store may watch it, and Nix answers everybody
what is valid. Only what was built counts, or fetched as such: derivations and sources have no deriver.
"""

import asyncio
import os
import time
from collections.abc import Callable, Sequence
from typing import Final

from icehouse.client.inotify import FolderWatch
from icehouse.client.local_store import LocalStore
from icehouse.client.new_paths import NewPaths
from icehouse.client.queue_pusher import wait_for
from icehouse.errors import IcehouseError, Unavailable
from icehouse.nix.store_paths import StorePath

_ASKED_AT_ONCE: Final = 500
_GATHERING_SECONDS: Final = 0.1
"""What happens together is asked for together: one process of Nix a tenth of a second, at most."""
_NIX_FAILED_SECONDS: Final = 5.0
_CLOCK_SLACK_SECONDS: Final = 5.0
"""File times are those of the last tick of the kernel's clock, and on a network the other machine's."""


class StoreWatcher:
    """Watches from the moment that it is made. `run` tells, until it is cancelled; then `finish` tells the rest."""

    def __init__(self, store: LocalStore, found: Callable[[Sequence[StorePath]], None]) -> None:
        self._store = store
        self._found = found
        self._paths = NewPaths()
        self._started = time.time()
        self._watch = FolderWatch(store.real_dir)
        self.trouble: IcehouseError | None = None
        """Why Nix could not be asked, if it could not the last time."""

    def close(self) -> None:
        """Watch no more."""
        self._watch.close()

    async def run(self) -> None:
        """Tell of each path that becomes valid.

        Raises:
            Unavailable: the store is no more.
        """
        loop = asyncio.get_running_loop()
        something = asyncio.Event()
        try:
            while True:
                loop.add_reader(self._watch.fileno(), something.set)
                await wait_for(something, self._seconds_to_wait())
                loop.remove_reader(self._watch.fileno())  # it stays readable until it is read
                something.clear()
                await asyncio.sleep(_GATHERING_SECONDS)
                self._paths.note(self._watch.read(), time.monotonic())
                await self._look_through()
                await self._ask()
        finally:
            loop.remove_reader(self._watch.fileno())

    async def finish(self) -> None:
        """Tell of each path that is valid by now."""
        self._paths.note(self._watch.read(), time.monotonic())
        await self._look_through()
        self._paths.all_due()
        while await self._ask():
            pass

    def _seconds_to_wait(self) -> float | None:
        due = self._paths.next_due()
        return None if due is None else max(0.0, due - time.monotonic())

    async def _look_through(self) -> None:
        if self._paths.has_missed:
            names = await asyncio.to_thread(self._changed_since, self._started - _CLOCK_SLACK_SECONDS)
            self._paths.looked_through(names, time.monotonic())

    def _changed_since(self, started: float) -> list[str]:
        """Entries whose inodes changed since. Their other times are those that Nix gives to all."""
        try:
            with os.scandir(self._store.real_dir) as entries:
                return [entry.name for entry in entries if _ctime(entry) >= started]
        except OSError as exc:
            raise Unavailable(f"{self._store.real_dir} cannot be read: {exc.strerror}") from exc

    async def _ask(self) -> bool:
        """Ask Nix of what is due; whether something was, and Nix answered."""
        asked = self._paths.take_due(time.monotonic(), _ASKED_AT_ONCE)
        if not asked:
            return False
        try:
            valid = await asyncio.to_thread(self._store.find_valid, asked)
        except IcehouseError as error:
            self.trouble = error
            self._paths.put_off(asked, time.monotonic() + _NIX_FAILED_SECONDS)
            return False
        self.trouble = None
        self._paths.settle(asked, {info.store_path for info in valid}, time.monotonic())
        built = [info.store_path for info in valid if info.deriver is not None]
        if built:
            self._found(built)
        return True


def _ctime(entry: os.DirEntry[str]) -> float:
    try:
        return entry.stat(follow_symlinks=False).st_ctime
    except FileNotFoundError:
        return 0.0

"""Orders broken on purpose: a campaign that found no loss by them would find none at all."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Final
from unittest.mock import patch

from icehouse.rules.collection import PackFacts
from icehouse.rules.packs import render_pack_end
from icehouse.services.collect import Collector
from icehouse.services.pack_writing import PackWriter
from icehouse.storage.nars import pack_key

# The broken versions reach into what they break.
# ruff: noqa: SLF001
# pyright: reportPrivateUsage=false


def sync_no_file() -> None:
    patch.object(os, "fdatasync").start()


def sync_no_folder() -> None:
    patch("icehouse.storage.local._sync_folder").start()


def make_rows_before_bytes() -> None:
    """A pack is committed when its writer is taken down, which is after its rows."""
    committed: dict[PackWriter, int] = {}
    abort = PackWriter.abort

    def name_it(self: PackWriter, domain_id: int) -> bytes:
        self._append(render_pack_end(self.entries))
        committed[self] = domain_id
        return self._hasher.digest()

    def commit_it(self: PackWriter) -> None:
        if self in committed and self._writer is not None:
            self._writer.commit(pack_key(committed.pop(self), self._hasher.digest()))
        abort(self)

    patch.object(PackWriter, "finish", name_it).start()
    patch.object(PackWriter, "abort", commit_it).start()


def delete_bytes_before_rows() -> None:
    delete = Collector._delete

    def delete_bytes_first(self: Collector, domain_id: int, pack: PackFacts, now: int) -> bool:
        self._blobs.delete(pack_key(domain_id, pack.name))
        return delete(self, domain_id, pack, now)

    patch.object(Collector, "_delete", delete_bytes_first).start()


def ignore_failed_writes() -> None:
    write = os.write

    def write_or_not(descriptor: int, data: bytes) -> int:
        try:
            return write(descriptor, data)
        except OSError:
            return len(data)

    patch.object(os, "write", write_or_not).start()


BREAKAGES: Final[dict[str, Callable[[], None]]] = {
    function.__name__.replace("_", "-"): function
    for function in (
        sync_no_file,
        sync_no_folder,
        make_rows_before_bytes,
        delete_bytes_before_rows,
        ignore_failed_writes,
    )
}

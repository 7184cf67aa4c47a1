"""Exporting paths of a cache into a folder that is a plain binary cache: for machines without a network.

A narinfo is written after its NAR, and after those of its references, so that whatever stops an export leaves a whole
cache behind, and the same export goes on from there.
"""

import asyncio
import os
import re
from collections.abc import Collection, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from icehouse.api.caches import CacheView
from icehouse.client.import_cache import order_by_references, try_again
from icehouse.client.nar_sources import NarSource, read_small
from icehouse.client.nar_spool import NarChecker
from icehouse.client.push_plan import first_of
from icehouse.errors import Conflict, InvalidFormat, NotFound, Unavailable
from icehouse.nix.cache_info import CacheInfo, parse_cache_info, render_cache_info
from icehouse.nix.narinfo import MAX_NARINFO_BYTES, NarInfo, parse_narinfo
from icehouse.nix.store_paths import HashPart, StoreDir

_NAR_URL: Final = re.compile(r"nar/[0-9a-z]{52}\.nar(\.[0-9a-z]{1,8})?")
_CACHE_INFO: Final = "nix-cache-info"


@dataclass(slots=True)
class ExportCounts:
    """Counted up while an export runs; others may read it meanwhile."""

    paths: int = 0
    """Paths to export."""
    paths_present: int = 0
    """Those that the folder had already."""
    paths_exported: int = 0
    read_bytes: int = 0
    """Bytes of NAR files."""
    paths_absent: int = 0
    """References that the cache does not have itself: its upstreams do."""


@dataclass(frozen=True, slots=True)
class _Found:
    """A path of the cache."""

    text: bytes
    info: NarInfo


async def export_paths(
    source: NarSource,
    view: CacheView,
    folder: Path,
    wanted: Sequence[HashPart],
    *,
    only: Collection[HashPart] | None,
    connections: int,
    counts: ExportCounts,
) -> None:
    """Write *wanted* and all that they reach into *folder*, counting in *counts*.

    Args:
        source: the cache, as it is read.
        view: the same, as its server describes it.
        folder: made if it is not there. What it holds already stays.
        wanted: the paths.
        only: of the paths that are reached, write these alone; None: all.
        connections: how many files are read at once.
        counts: fresh ones.

    Raises:
        NotFound: the cache does not have one of *wanted*.
        Conflict: the folder is a cache for another store directory.
        Corrupt, InvalidFormat: the cache answers with what it should not.
        Unavailable: the cache cannot be reached, or the folder cannot be written.
    """
    await asyncio.to_thread(_prepare, folder, view)
    slots = asyncio.Semaphore(connections)
    found = await _walk(source, wanted, slots, counts)
    chosen = [each for hash_part, each in found.items() if only is None or hash_part in only]
    counts.paths = len(chosen)
    lacking = [each for each in chosen if not await asyncio.to_thread(_is_there, folder, each)]
    counts.paths_present = len(chosen) - len(lacking)
    by_url = {each.info.url: each.info for each in lacking}

    async def fetch(info: NarInfo) -> None:
        async with slots:
            await try_again(lambda: _fetch(source, folder, info, counts))

    try:
        async with asyncio.TaskGroup() as tasks:
            for info in by_url.values():
                tasks.create_task(fetch(info))
    except BaseExceptionGroup as group:
        raise first_of(group) from group
    texts = {each.info.store_path: each.text for each in lacking}
    await asyncio.to_thread(_sync_folder, folder / "nar")
    for info in order_by_references([each.info for each in lacking]):
        place = folder / f"{info.store_path.hash_part}.narinfo"
        await asyncio.to_thread(_write, place, texts[info.store_path])
        counts.paths_exported += 1
    await asyncio.to_thread(_sync_folder, folder)


async def _walk(
    source: NarSource, wanted: Sequence[HashPart], slots: asyncio.Semaphore, counts: ExportCounts
) -> dict[HashPart, _Found]:
    found: dict[HashPart, _Found] = {}
    seen: set[HashPart] = set()
    frontier = list(dict.fromkeys(wanted))

    async def ask(hash_part: HashPart) -> _Found | None:
        async with slots:
            try:
                text = await try_again(lambda: read_small(source, f"{hash_part}.narinfo", MAX_NARINFO_BYTES))
            except NotFound:
                return None
        return _Found(text, _parse(source, hash_part, text))

    is_first = True
    while frontier:
        seen.update(frontier)
        answers = await asyncio.gather(*map(ask, frontier))
        for hash_part, answer in zip(frontier, answers, strict=True):
            if answer is not None:
                found[hash_part] = answer
            elif is_first:
                raise NotFound(f"{source.url} does not have {hash_part}; `icehouse path why` says more")
            else:
                counts.paths_absent += 1
        referred = [each.hash_part for answer in answers if answer is not None for each in answer.info.references]
        frontier = [hash_part for hash_part in dict.fromkeys(referred) if hash_part not in seen]
        is_first = False
    return found


def _parse(source: NarSource, hash_part: HashPart, text: bytes) -> NarInfo:
    info = parse_narinfo(text)
    if info.store_path.hash_part != hash_part:
        raise InvalidFormat(f"{source.url}/{hash_part}.narinfo is of another path, {info.store_path}")
    # It becomes a name in the folder.
    if _NAR_URL.fullmatch(info.url) is None:
        raise InvalidFormat(f"{source.url}/{hash_part}.narinfo has the URL {info.url!r}: expected nar/….nar.zst")
    return info


async def _fetch(source: NarSource, folder: Path, info: NarInfo, counts: ExportCounts) -> None:
    """Write the file of a NAR as it is, if it decodes to what its narinfo says."""
    checker = NarChecker(info)
    place = folder / info.url
    partial = place.with_name(f".{place.name}.partial")
    try:
        with await asyncio.to_thread(partial.open, "wb") as file:
            async with aclosing(source.read(info.url)) as pieces:
                async for piece in pieces:
                    counts.read_bytes += len(piece)
                    await asyncio.to_thread(_take, checker, piece, file)
            checker.finish()
            await asyncio.to_thread(_sync, file)
        await asyncio.to_thread(partial.replace, place)
    except OSError as exc:
        raise Conflict(f"{place} cannot be written: {exc.strerror}") from exc


def _take(checker: NarChecker, piece: bytes, file: BinaryIO) -> None:
    checker.take(piece)
    file.write(piece)


def _prepare(folder: Path, view: CacheView) -> None:
    info = CacheInfo(StoreDir.parse(view.store_dir), want_mass_query=True, priority=view.priority)
    try:
        (folder / "nar").mkdir(parents=True, exist_ok=True)
        place = folder / _CACHE_INFO
        if not place.exists():
            _write(place, render_cache_info(info).encode())
        elif parse_cache_info(place.read_bytes()).store_dir not in {None, info.store_dir}:
            raise Conflict(f"{folder} is a cache for another store directory than {view.store_dir}")
    except OSError as exc:
        raise Conflict(f"{folder} cannot be written: {exc.strerror}") from exc


def _is_there(folder: Path, found: _Found) -> bool:
    """Whether the folder has this path: what it wrote itself is whole."""
    try:
        same = (folder / f"{found.info.store_path.hash_part}.narinfo").read_bytes() == found.text
        return same and (folder / found.info.url).stat().st_size == found.info.file_size
    except FileNotFoundError:
        return False
    except OSError as exc:
        raise Unavailable(f"{folder} cannot be read: {exc.strerror}") from exc


def _write(place: Path, data: bytes) -> None:
    partial = place.with_name(f".{place.name}.partial")
    try:
        with partial.open("wb") as file:
            file.write(data)
            _sync(file)
        partial.replace(place)
    except OSError as exc:
        raise Conflict(f"{place} cannot be written: {exc.strerror}") from exc


def _sync(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

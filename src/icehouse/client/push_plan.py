"""What a push is going to do: what the cache lacks of a closure, without what is excluded or upstream has."""

import asyncio
import os
from collections.abc import Awaitable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import TypeVar, cast

from icehouse.api.caches import CacheView
from icehouse.api.server import ServerParameters
from icehouse.client.local_store import LocalStore
from icehouse.client.push_counts import PushCounts
from icehouse.client.server import Server
from icehouse.errors import Conflict, IcehouseError, TooLarge
from icehouse.nix.path_info_json import ValidPath
from icehouse.nix.signing import PublicKey, Signature, fingerprint
from icehouse.nix.store_paths import StoreDir, StorePath
from icehouse.rules.chunks import ChunkParameters
from icehouse.rules.demands import is_vouched_for, lacks_signature
from icehouse.rules.push_selection import Exclusion, select

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class PushSettings:
    """How to push."""

    jobs: int | None = None
    """Worker threads. None: one for each core."""
    is_verifying: bool = False
    """Register and publish paths that are present too, so that the server proves their NARs again."""
    exclusion: Exclusion = field(default_factory=Exclusion)
    memory_bytes: int | None = None
    """What the whole process is to take, at least `MIN_MEMORY_BYTES`; see `plan_memory`. None: what is quickest."""

    @property
    def threads(self) -> int:
        """How many worker threads there may be."""
        return self.jobs or len(os.sched_getaffinity(0))


@dataclass(frozen=True, slots=True)
class PushPlan:
    """What a push is going to do."""

    view: CacheView
    parameters: ServerParameters
    closure: list[ValidPath]
    """All paths, references first."""
    publish: list[ValidPath]
    """Paths to send, references first."""
    excluded: tuple[ValidPath, ...]
    """Paths that the cache lacks and the user excludes."""
    dependents: tuple[ValidPath, ...]
    """Paths that cannot be pushed without these."""
    externals: Mapping[StorePath, tuple[ValidPath, Signature]]
    """Paths that are not sent, each with the signature of an upstream."""
    is_verifying: bool
    """Whether the server is to prove NARs that it has already."""


async def plan_push(
    server: Server,
    cache: str,
    store: LocalStore,
    paths: Sequence[StorePath],
    *,
    settings: PushSettings,
    counts: PushCounts,
    closure: Awaitable[list[ValidPath]] | None = None,
) -> PushPlan:
    """What `push` would do, counted in *counts*. Asks the server and changes nothing.

    *closure* is what `read_closure` gives for *paths*, if somebody reads it already. The errors are those of `push`.
    """

    async def read() -> list[ValidPath]:
        # Who gives up here takes it from nobody else who waits for it.
        return await (asyncio.to_thread(store.read_closure, paths) if closure is None else asyncio.shield(closure))

    try:
        async with asyncio.TaskGroup() as tasks:
            reading = tasks.create_task(read())
            showing = tasks.create_task(server.show_cache(cache))
            asking = tasks.create_task(server.parameters())
            # Asks nothing but whether we may push. A push that finds everything there would not notice otherwise.
            tasks.create_task(server.find_missing_chunks(cache, []))
    except BaseExceptionGroup as group:
        raise first_of(group) from group
    view, parameters = showing.result(), asking.result()
    if view.store_dir != store.store_dir.path:
        raise Conflict(f"cache {cache} is for the store directory {view.store_dir}, not {store.store_dir}")
    return await plan_closure(server, view, parameters, reading.result(), settings=settings, counts=counts)


async def plan_closure(
    server: Server,
    view: CacheView,
    parameters: ServerParameters,
    closure: list[ValidPath],
    *,
    settings: PushSettings,
    counts: PushCounts,
) -> PushPlan:
    """As `plan_push`, of paths that are known, references first."""
    store_dir = StoreDir.parse(view.store_dir)
    externals = find_externals(closure, view, store_dir)
    ours = [info for info in closure if info.store_path not in externals]
    missing: set[str] = set()
    for batch in _chunked([info.store_path.hash_part for info in ours], parameters.max_hash_parts):
        missing.update(await server.find_missing(view.name, batch))
    selection = select([info for info in ours if info.store_path.hash_part in missing], settings.exclusion)
    present = [info for info in ours if info.store_path.hash_part not in missing]
    left_out = {info.store_path for info in (*selection.excluded, *selection.dependents)}
    chosen = [info for info in ours if info.store_path not in left_out] if settings.is_verifying else selection.publish
    counts.paths = len(closure)
    counts.paths_present = len(present)
    counts.paths_upstream = len(externals)
    counts.paths_excluded = len(left_out)
    counts.paths_to_push = len(chosen)
    counts.nar_bytes = sum({info.nar_hash: info.nar_size for info in chosen}.values())
    counts.waiting = {info.store_path: None for info in chosen}
    too_large = [info for info in selection.publish if info.nar_size > parameters.max_nar_bytes]
    if too_large:
        raise TooLarge(
            f"{too_large[0].store_path}: its NAR has {too_large[0].nar_size} bytes; the server takes at most "
            f"{parameters.max_nar_bytes}; `--exclude-larger-than` pushes the others"
        )
    await asyncio.to_thread(_check_demands, selection.publish, view, store_dir)
    return PushPlan(
        view=view,
        parameters=parameters,
        closure=closure,
        publish=list(chosen),
        excluded=selection.excluded,
        dependents=selection.dependents,
        externals=externals,
        is_verifying=settings.is_verifying,
    )


def _check_demands(lacking: Iterable[ValidPath], view: CacheView, store_dir: StoreDir) -> None:
    """Return if each path has a signature that the cache demands: else the server would refuse it, after all bytes."""
    keys = [PublicKey.parse(text) for text in view.required_keys]
    unsigned = [
        info for info in lacking if keys and not is_vouched_for(info.signatures, fingerprint(info, store_dir), keys)
    ]
    if unsigned:
        more = f" ({len(unsigned) - 1} more paths lack one)" if len(unsigned) > 1 else ""
        raise Conflict(f"{unsigned[0].store_path}: {lacks_signature(unsigned[0].signatures, keys)}{more}")


def find_externals(
    closure: Iterable[ValidPath], view: CacheView, store_dir: StoreDir
) -> dict[StorePath, tuple[ValidPath, Signature]]:
    """Those paths that carry a good signature of one of the cache's upstreams."""
    keys = {key.key_name: key for upstream in view.upstreams for key in map(PublicKey.parse, upstream.public_keys)}
    found: dict[StorePath, tuple[ValidPath, Signature]] = {}
    for info in closure:
        candidates = [signature for signature in info.signatures if signature.key_name in keys]
        signed = fingerprint(info, store_dir) if candidates else b""
        for signature in candidates:
            if keys[signature.key_name].verify(signed, signature):
                found[info.store_path] = (info, signature)
                break
    return found


def chunk_parameters(parameters: ServerParameters) -> ChunkParameters:
    """How the server wants NARs cut."""
    return ChunkParameters(
        min_bytes=parameters.chunk_min_bytes,
        average_bytes=parameters.chunk_average_bytes,
        max_bytes=parameters.chunk_max_bytes,
        normalization=parameters.chunk_normalization,
    )


def _chunked(items: Sequence[T], size: int) -> Iterator[list[T]]:
    rest = iter(items)
    while batch := list(islice(rest, size)):
        yield batch


def first_of(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The error to tell of: one of ours, if there is one among those that came together."""
    members: Sequence[BaseException] = group.exceptions
    leaves = [
        first_of(cast("BaseExceptionGroup[BaseException]", member))
        if isinstance(member, BaseExceptionGroup)
        else member
        for member in members
    ]
    ours = [leaf for leaf in leaves if isinstance(leaf, IcehouseError)]
    return (ours or leaves)[0]

"""Creating, configuring, listing, showing and deleting caches."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Final
from urllib.parse import urlsplit

import msgspec
from sqlalchemy import Connection

from icehouse.api.caches import CacheConfigure, CacheCreate, CacheSize, CacheView, UpstreamBody
from icehouse.db.cache_settings import load_required_keys, load_settings, set_required_keys, set_settings
from icehouse.db.caches import (
    PUBLIC_DOMAIN_ID,
    CacheRow,
    UpstreamRow,
    delete_cache,
    find_cache,
    find_domain,
    find_relatives,
    get_cache,
    insert_cache,
    insert_domain,
    insert_upstream,
    list_caches,
    list_caches_of_domain,
    list_upstreams,
    page_recipes,
    purge_domain,
    set_staging_of,
    sum_stored_bytes,
)
from icehouse.db.engine import Database
from icehouse.db.keys import insert_key, list_keys
from icehouse.db.sizes import CacheSizes, load_cache_sizes
from icehouse.db.trust import revoke_job_tokens
from icehouse.errors import Denied, InvalidFormat
from icehouse.nix.excerpts import excerpt
from icehouse.nix.signing import SEED_BYTES, PublicKey, SecretKey
from icehouse.nix.store_paths import StoreDir
from icehouse.rules.access import (
    Grant,
    Permission,
    allows,
    check_access,
    check_may_create_cache,
    no_such_cache,
    parse_cache_name,
)
from icehouse.rules.audit import Action, Actor
from icehouse.rules.demands import parse_required_keys
from icehouse.rules.journal import JournalEntry
from icehouse.rules.quotas import CacheSettings, check_settings, find_warning
from icehouse.rules.recipes import parse_recipe
from icehouse.rules.staging import StagingFacts, check_may_stage
from icehouse.services.audit import differences, record
from icehouse.services.journal import put_entry, render_required
from icehouse.services.signing import NONCE_BYTES, Sealer
from icehouse.storage.blobs import BlobStore

DEFAULT_UPSTREAM: Final = UpstreamBody(
    url="https://cache.nixos.org",
    public_keys=["cache.nixos.org-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY="],
)
MAX_UPSTREAMS: Final = 16
MAX_UPSTREAM_KEYS: Final = 16
MAX_URL_LENGTH: Final = 2048
MAX_PRIORITY: Final = 2**31 - 1

_RECIPES_A_PAGE: Final = 500
_RANGES_A_PAGE: Final = 500
_ANY_CHUNKS: Final = 2**62
_NOT_AUDITED: Final = frozenset({"name", "url", "created_at", "stored_bytes", "warning", "stagings"})


@dataclass(frozen=True, slots=True)
class _Upstream:
    url: str
    public_keys: tuple[PublicKey, ...]


@dataclass(frozen=True, slots=True)
class _Settings:
    """A `CacheCreate` whose parts were read."""

    name: str
    is_public: bool
    domain_name: str | None
    store_dir: StoreDir
    priority: int
    want_mass_query: bool
    upstreams: tuple[_Upstream, ...] | None
    """`None`: those of the cache that it is a staging of."""
    kept: CacheSettings
    required_keys: tuple[PublicKey, ...]


class Caches:
    """Administers caches. Rights on a cache that exists are checked by who calls (`Access.enter`)."""

    def __init__(
        self,
        database: Database,
        blobs: BlobStore,
        sealer: Sealer,
        *,
        public_url: str,
        clock: Callable[[], int],
        draw: Callable[[int], bytes],
    ) -> None:
        """*draw* gives so many random bytes, fit for secrets."""
        self._database = database
        self._blobs = blobs
        self._sealer = sealer
        self._public_url = public_url.rstrip("/")
        self._clock = clock
        self._draw = draw

    async def create_cache(self, request: CacheCreate, grant: Grant | None, actor: Actor) -> CacheView:
        """Make a cache with a signing key of its own.

        Raises:
            InvalidFormat: a setting is not valid.
            Unauthenticated: there are no credentials.
            Denied: the caller does not administer caches of that name, or not all caches of the domain named, or may
                not configure the cache that it is to be a staging of.
            NotFound: there is no such cache to be a staging of, or the caller may not know of it.
            Conflict: there is a cache of that name.
        """
        settings = _parse_settings(request)
        check_may_create_cache(grant, settings.name)
        now = self._clock()
        key = SecretKey.generate(key_name(settings.name, self._public_url), self._draw(SEED_BYTES))
        sealed = self._sealer.seal(key, key.key_name, self._draw(NONCE_BYTES))

        def work(connection: Connection) -> CacheView:
            cache = insert_cache(
                connection,
                name=settings.name,
                domain_id=_choose_domain(connection, settings, grant, now=now),
                is_public=settings.is_public,
                store_dir=settings.store_dir,
                priority=settings.priority,
                want_mass_query=settings.want_mass_query,
                now=now,
            )
            set_settings(connection, cache.id, settings.kept)
            set_required_keys(connection, cache.id, settings.required_keys)
            insert_key(connection, cache.id, key.public_key, sealed, now=now)
            upstreams = settings.upstreams
            if request.staging_of is not None:
                main = _stage(connection, cache, request.staging_of, grant)
                cache = replace(cache, staging_of=main.id)
                upstreams = upstreams if upstreams is not None else list_upstreams(connection, main.id)
            for upstream in upstreams or ():
                insert_upstream(connection, cache.id, upstream.url, upstream.public_keys)
            view = self._load_view(connection, cache)
            new = _audited(view) | {"domain": settings.domain_name}
            record(connection, actor, Action.CACHE_CREATE, cache.name, new=new, now=now)
            return view

        return await self._database.write(work)

    async def configure_cache(
        self, cache: CacheRow, request: CacheConfigure, grant: Grant | None, actor: Actor
    ) -> CacheView:
        """Change what *request* names. It holds from now on; the next collection and the next push go by it.

        The journal is told which signatures are demanded, since whoever rebuilds the database must not lose that: of a
        demand before it holds, and that there is none any more after it. What a crash leaves between demands too much.

        Raises:
            InvalidFormat: a setting is not valid.
            NotFound: the cache was deleted meanwhile; or there is no such cache to be a staging of, or the caller may
                not know of it.
            Denied: the caller may not configure that one.
        """
        changes = {name: value for name, value in msgspec.structs.asdict(request).items() if value is not msgspec.UNSET}
        priority: int | None = changes.pop("priority", None)
        if priority is not None:
            _check_priority(priority)
        main_name: str | msgspec.UnsetType | None = changes.pop("staging_of", msgspec.UNSET)
        texts: list[str] | None = changes.pop("required_keys", None)
        required = None if texts is None else parse_required_keys(texts)

        def work(connection: Connection) -> CacheView:
            settings, _ = load_settings(connection, cache.id)
            before = self._load_view(connection, get_cache(connection, cache.name))
            set_settings(connection, cache.id, check_settings(replace(settings, **changes)), priority=priority)
            if main_name is None:
                set_staging_of(connection, cache.id, None)
            elif main_name is not msgspec.UNSET:
                _stage(connection, cache, main_name, grant)
            if required is not None:
                set_required_keys(connection, cache.id, required)
            view = self._load_view(connection, get_cache(connection, cache.name))
            old, new = differences(_audited(before), _audited(view))
            if new:
                record(connection, actor, Action.CACHE_CONFIGURE, cache.name, old=old, new=new, now=self._clock())
            return self._load_view(connection, get_cache(connection, cache.name), partial(_may_see, grant))

        if required:
            await asyncio.to_thread(self._tell_journal, cache, required)
        view = await self._database.write(work)
        if required is not None and not required:
            await asyncio.to_thread(self._tell_journal, cache, required)
        return view

    async def list_caches(self, grant: Grant | None) -> list[CacheView]:
        """The caches that the caller may pull from, by name: public ones, and those that *grant* opens."""

        def work(connection: Connection) -> list[CacheView]:
            return [
                self._load_view(connection, cache, partial(_may_see, grant))
                for cache in list_caches(connection)
                if _may_see(grant, cache)
            ]

        return await self._database.read(work)

    async def show_cache(self, cache: CacheRow, grant: Grant | None) -> CacheView:
        """A cache as its users see it."""
        return await self._database.read(partial(self._load_view, cache=cache, may_see=partial(_may_see, grant)))

    async def measure_cache(self, cache: CacheRow) -> CacheSize:
        """What is visible in a cache, exact at some time while it is counted: NARs are looked at a page at a time."""
        stored_bytes = await self._measure(cache)
        found = await self._database.read(partial(load_cache_sizes, cache_ids=[cache.id]))
        sizes = found[0] if found else CacheSizes(cache.name)  # It was deleted meanwhile.
        return CacheSize(paths=sizes.visible_paths, nar_bytes=sizes.nar_bytes, stored_bytes=stored_bytes)

    async def delete_cache(self, cache: CacheRow, actor: Actor) -> None:
        """Remove a cache for good, and, if it was the last of a domain other than the public one, that domain's bytes.

        The rows go first, in one transaction. Objects that a crash leaves then are strays, which collection finds.

        Raises:
            NotFound: it was deleted already.
            StorageError: the rows are gone, and some objects could not be deleted.
        """
        now = self._clock()

        def work(connection: Connection) -> bool:
            old = _audited(self._load_view(connection, cache))
            delete_cache(connection, cache.id)
            revoke_job_tokens(connection, cache.name, None, now=now)  # Else they would hold for the next of that name.
            record(connection, actor, Action.CACHE_DELETE, cache.name, old=old, now=now)
            is_empty = cache.domain_id != PUBLIC_DOMAIN_ID and not list_caches_of_domain(connection, cache.domain_id)
            if is_empty:
                purge_domain(connection, cache.domain_id)
            return is_empty

        if await self._database.write(work):
            await asyncio.to_thread(self._delete_objects, cache.domain_id)

    def _tell_journal(self, cache: CacheRow, required: Sequence[PublicKey]) -> None:
        entry = JournalEntry(
            cache=cache.name,
            store_dir=str(cache.store_dir),
            is_public=cache.is_public,
            created_at=self._clock(),
            published_by=None,
            nars=[],
            paths=[],
            externals=[],
            required_keys=render_required(required),
        )
        put_entry(self._blobs, cache.domain_id, entry)

    def _delete_objects(self, domain_id: int) -> None:
        for prefix in (f"packs/{domain_id}/", f"journal/{domain_id}/", f"logs/{domain_id}/"):
            for blob in self._blobs.list(prefix):
                self._blobs.delete(blob.key)

    async def _measure(self, cache: CacheRow) -> int:
        """Stored bytes of the distinct chunks that the visible paths of *cache* use."""
        used: list[tuple[int, int]] = []
        after = 0
        while True:
            page = await self._database.read(
                lambda connection, after=after: page_recipes(
                    connection, cache, after_nar_id=after, limit=_RECIPES_A_PAGE
                )
            )
            if not page:
                break
            after = page[-1].nar_id
            for recipe in page:
                # Checked when it was stored, so its chunks need no limit here.
                runs = parse_recipe(recipe.body, max_chunks=_ANY_CHUNKS).runs
                used += [(run.first, run.first + run.count - 1) for run in runs]
            used = merge_ranges(used)  # Most NARs share runs with others, so this stays small.
        total = 0
        for start in range(0, len(used), _RANGES_A_PAGE):
            some = used[start : start + _RANGES_A_PAGE]
            total += await self._database.read(
                lambda connection, some=some: sum_stored_bytes(connection, cache.domain_id, some)
            )
        return total

    def _load_view(
        self, connection: Connection, cache: CacheRow, may_see: Callable[[CacheRow], bool] = lambda _: True
    ) -> CacheView:
        """What is told of a cache, and of those of its relatives that *may_see* allows."""
        main, stagings = find_relatives(connection, cache)
        settings, stored_bytes = load_settings(connection, cache.id)
        return CacheView(
            name=cache.name,
            url=f"{self._public_url}/{cache.name}",
            is_public=cache.is_public,
            priority=cache.priority,
            want_mass_query=cache.want_mass_query,
            store_dir=cache.store_dir.path,
            public_keys=[key.public_key.render() for key in list_keys(connection, cache.id) if key.is_published],
            upstreams=[_upstream_body(upstream) for upstream in list_upstreams(connection, cache.id)],
            created_at=cache.created_at,
            **asdict(settings),
            required_keys=[key.render() for key in load_required_keys(connection, cache.id)],
            stored_bytes=stored_bytes,
            warning=find_warning(stored_bytes, settings),
            staging_of=None if main is None or not may_see(main) else main.name,
            stagings=[staging.name for staging in stagings if may_see(staging)],
        )


def permission_to_configure(request: CacheConfigure) -> Permission:
    """What the changes take: whoever may say whose signatures count, may let anybody publish."""
    return Permission.CONFIGURE if request.required_keys is msgspec.UNSET else Permission.ADMIN


def key_name(cache_name: str, public_url: str) -> str:
    """The name of a new cache's signing key: ``<cache>.<host>-1``, the host without its port."""
    host = urlsplit(public_url).hostname
    if not host:
        raise InvalidFormat(f"public URL {excerpt(public_url)}: expected for instance https://cache.example.org")
    return f"{cache_name}.{host.replace(':', '-')}-1"  # A colon would end the name; an IPv6 address has some.


def _may_see(grant: Grant | None, cache: CacheRow) -> bool:
    return cache.is_public or allows(grant, Permission.PULL, cache.name)


def _stage(connection: Connection, cache: CacheRow, main_name: str, grant: Grant | None) -> CacheRow:
    """Make *cache* a staging of another cache, which the caller may configure; the other."""
    main = find_cache(connection, main_name)
    check_access(grant, Permission.CONFIGURE, main_name, is_public=None if main is None else main.is_public)
    if main is None:
        raise no_such_cache(main_name)
    check_may_stage(_staging_facts(connection, cache), _staging_facts(connection, main))
    set_staging_of(connection, cache.id, main.id)
    return main


def _staging_facts(connection: Connection, cache: CacheRow) -> StagingFacts:
    main, stagings = find_relatives(connection, cache)
    return StagingFacts(cache.name, cache.is_public, cache.store_dir, main is not None, bool(stagings))


def _choose_domain(connection: Connection, settings: _Settings, grant: Grant | None, *, now: int) -> int:
    if settings.is_public:
        return PUBLIC_DOMAIN_ID
    if settings.domain_name is None:
        return insert_domain(connection, None, now=now)
    domain_id = find_domain(connection, settings.domain_name)
    if domain_id is None:
        return insert_domain(connection, settings.domain_name, now=now)
    # Whoever shares a domain can find out which chunks it has.
    if not all(allows(grant, Permission.ADMIN, cache.name) for cache in list_caches_of_domain(connection, domain_id)):
        raise Denied(f"domain {settings.domain_name!r}: joining it needs the permission admin on all its caches")
    return domain_id


def _parse_settings(request: CacheCreate) -> _Settings:
    _check_priority(request.priority)
    upstreams = request.upstreams
    if upstreams is None and request.staging_of is None:
        upstreams = [DEFAULT_UPSTREAM]
    return _Settings(
        name=parse_cache_name(request.name),
        is_public=request.is_public,
        domain_name=_parse_domain(request),
        store_dir=StoreDir.parse(request.store_dir),
        priority=request.priority,
        want_mass_query=request.want_mass_query,
        upstreams=None if upstreams is None else _parse_upstreams(upstreams),
        kept=check_settings(
            CacheSettings(
                keep_unused_seconds=request.keep_unused_seconds,
                keep_pushed_seconds=request.keep_pushed_seconds,
                budget_bytes=request.budget_bytes,
                limit_bytes=request.limit_bytes,
                trash_seconds=request.trash_seconds,
            )
        ),
        required_keys=parse_required_keys(request.required_keys),
    )


def _check_priority(priority: int) -> None:
    if not 0 <= priority <= MAX_PRIORITY:
        raise InvalidFormat(f"priority {priority}: expected 0 to {MAX_PRIORITY}")


def _parse_domain(request: CacheCreate) -> str | None:
    if request.domain is None:
        return None
    if request.is_public:
        raise InvalidFormat(f"domain {excerpt(request.domain)}: a public cache is in the domain of all public caches")
    if request.domain == "public":
        raise InvalidFormat("domain 'public' is that of public caches: it would tell others what a private cache has")
    try:
        return parse_cache_name(request.domain)
    except InvalidFormat as exc:
        raise InvalidFormat(f"domain: {exc}") from exc


def _parse_upstreams(bodies: Sequence[UpstreamBody]) -> tuple[_Upstream, ...]:
    if len(bodies) > MAX_UPSTREAMS:
        raise InvalidFormat(f"{len(bodies)} upstreams: expected at most {MAX_UPSTREAMS}")
    parsed = tuple(_parse_upstream(body) for body in bodies)
    if len({upstream.url for upstream in parsed}) < len(parsed):
        raise InvalidFormat("upstreams: a URL is there twice")
    return parsed


def _parse_upstream(body: UpstreamBody) -> _Upstream:
    url = body.url.rstrip("/")
    try:
        parts = urlsplit(url)
        is_address = parts.scheme in {"http", "https", "s3"} and bool(parts.hostname)
    except ValueError:
        is_address = False
    else:
        is_address = is_address and parts.username is None
    if not is_address or len(url) > MAX_URL_LENGTH or not url.isprintable() or " " in url:
        raise InvalidFormat(f"upstream {excerpt(url)}: expected an http, https or s3 URL without credentials")
    if not 0 < len(body.public_keys) <= MAX_UPSTREAM_KEYS:
        raise InvalidFormat(
            f"upstream {url}: {len(body.public_keys)} public keys, expected 1 to {MAX_UPSTREAM_KEYS}: "
            "a path is accepted as external for its signature"
        )
    return _Upstream(url, tuple(PublicKey.parse(key) for key in body.public_keys))


def _audited(view: CacheView) -> dict[str, object]:
    """What the audit log holds of a cache: what people set, not what is measured."""
    return {name: value for name, value in msgspec.structs.asdict(view).items() if name not in _NOT_AUDITED}


def _upstream_body(upstream: UpstreamRow) -> UpstreamBody:
    return UpstreamBody(url=upstream.url, public_keys=[key.render() for key in upstream.public_keys])


def merge_ranges(ranges: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """The same numbers as *ranges* (first and last, that one included), ascending, without overlaps and neighbours."""
    merged: list[tuple[int, int]] = []
    for first, last in sorted(ranges):
        if merged and first <= merged[-1][1] + 1:
            merged[-1] = merged[-1][0], max(last, merged[-1][1])
        else:
            merged.append((first, last))
    return merged

"""Bodies about caches."""

import msgspec


class UpstreamBody(msgspec.Struct, frozen=True, kw_only=True):
    """Another cache that clients use too, and the keys whose signatures are evidence."""

    url: str
    public_keys: list[str]


class CacheCreate(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Body of ``POST /api/v1/caches``."""

    name: str
    is_public: bool
    domain: str | None = None
    """Name of a shared domain for a private cache; null: a domain of its own."""
    priority: int = 41
    want_mass_query: bool = True
    store_dir: str = "/nix/store"
    upstreams: list[UpstreamBody] | None = None
    """Null: cache.nixos.org alone. An empty list: none."""


class CacheView(msgspec.Struct, frozen=True, kw_only=True):
    """A cache as its users see it."""

    name: str
    url: str
    """The substituter's address."""
    is_public: bool
    priority: int
    want_mass_query: bool
    store_dir: str
    public_keys: list[str]
    upstreams: list[UpstreamBody]
    created_at: int


class CacheSize(msgspec.Struct, frozen=True, kw_only=True):
    """Body of ``GET /api/v1/caches/{cache}/size``: what is visible in a cache. Counted when asked for."""

    paths: int
    nar_bytes: int
    """Sum of `nar_size` over the visible paths."""
    stored_bytes: int
    """Stored bytes of the distinct chunks that its paths use."""

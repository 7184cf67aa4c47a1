"""Bodies about caches."""

import msgspec


class UpstreamBody(msgspec.Struct, frozen=True, kw_only=True):
    """Another cache that clients use too, and the keys whose signatures are evidence."""

    url: str
    """Its address as a substituter."""
    public_keys: list[str]
    """`<name>:<base64>`, as in `trusted-public-keys` of nix.conf."""


class CacheCreate(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Body of ``POST /api/v1/caches``."""

    name: str
    """1 to 50 of a-z, 0-9 and, inside, hyphens."""
    is_public: bool
    """Whether everybody may pull from it."""
    domain: str | None = None
    """Name of a shared domain for a private cache; null: a domain of its own."""
    priority: int = 41
    """Nix asks caches with lower numbers first; cache.nixos.org has 40."""
    want_mass_query: bool = True
    """Whether Nix may ask it for many paths at once, to find which it has."""
    store_dir: str = "/nix/store"
    """The store directory of all its paths."""
    upstreams: list[UpstreamBody] | None = None
    """Null: cache.nixos.org alone. An empty list: none."""
    keep_unused_seconds: int | None = None
    """Hide what was not used for so long; null: use does not matter."""
    keep_pushed_seconds: int | None = None
    """Hide what was pushed longer ago; null: age does not matter."""
    budget_bytes: int | None = None
    """Hide what was used least recently while the cache is larger; null: no budget."""
    limit_bytes: int | None = None
    """Refuse pushes while the cache is as large or larger; null: no limit."""
    trash_seconds: int = 604_800
    """How long hidden paths can come back."""
    staging_of: str | None = None
    """The cache that what is looked at here is promoted to. Then null `upstreams` are that one's."""
    required_keys: list[str] = []
    """Public keys, of one of which what is pushed must carry a signature; empty: of none."""


class CacheConfigure(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Body of ``PATCH /api/v1/caches/{cache}``. What is left out stays; null unsets.

    The fields are as in `CacheCreate`.
    """

    priority: int | msgspec.UnsetType = msgspec.UNSET
    """Nix asks caches with lower numbers first; cache.nixos.org has 40."""
    keep_unused_seconds: int | msgspec.UnsetType | None = msgspec.UNSET
    """Hide what was not used for so long; null: use does not matter."""
    keep_pushed_seconds: int | msgspec.UnsetType | None = msgspec.UNSET
    """Hide what was pushed longer ago; null: age does not matter."""
    budget_bytes: int | msgspec.UnsetType | None = msgspec.UNSET
    """Hide what was used least recently while the cache is larger; null: no budget."""
    limit_bytes: int | msgspec.UnsetType | None = msgspec.UNSET
    """Refuse pushes while the cache is as large or larger; null: no limit."""
    trash_seconds: int | msgspec.UnsetType = msgspec.UNSET
    """How long hidden paths can come back."""
    staging_of: str | msgspec.UnsetType | None = msgspec.UNSET
    """The cache that what is looked at here is promoted to; null: none."""
    required_keys: list[str] | msgspec.UnsetType = msgspec.UNSET
    """Public keys, of one of which what is pushed must carry a signature; empty: of none."""


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
    keep_unused_seconds: int | None
    keep_pushed_seconds: int | None
    budget_bytes: int | None
    limit_bytes: int | None
    trash_seconds: int
    required_keys: list[str] = []
    stored_bytes: int
    """Of the distinct chunks of its paths: as the last collection found it, and what was pushed since."""
    warning: str | None
    """A sentence, if the cache is at 85 % of its limit or budget, or above."""
    staging_of: str | None = None
    """The cache that what is looked at here is promoted to; null: none, or none that the caller may see."""
    stagings: list[str] = []
    """Of this cache, those that the caller may see."""


class CacheSize(msgspec.Struct, frozen=True, kw_only=True):
    """Body of ``GET /api/v1/caches/{cache}/size``: what is visible in a cache. Counted when asked for."""

    paths: int
    nar_bytes: int
    """Sum of `nar_size` over the visible paths."""
    stored_bytes: int
    """Stored bytes of the distinct chunks that its paths use."""

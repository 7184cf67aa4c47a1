"""Bodies about revocations: holding back what somebody published."""

import msgspec


class RevocationCreate(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Body of ``POST /api/v1/revocations``. Times are seconds since the epoch, UTC."""

    by: dict[str, str]
    """`token` and its number; or `issuer`, `subject`, `repository`, `ref`, `workflow`, `commit`, `run` of jobs."""
    since: int
    """What was published then or later is revoked."""
    until: int | None = None
    """Null: what is published from now on is refused, too."""
    cache: str | None = None
    """Null: in all caches."""
    dry_run: bool = False
    """Only tell what would be hidden."""


class DownloadView(msgspec.Struct, frozen=True, kw_only=True):
    """Who downloaded something, how often, and when first and last."""

    token_id: int | None
    """Null: no token was needed."""
    name: str | None
    """The token's description, as far as it is known still."""
    address: str | None
    """Null: the token tells who."""
    paths: int
    """Of how many paths."""
    downloads: int
    first_at: int
    last_at: int


class RevokedPath(msgspec.Struct, frozen=True, kw_only=True):
    """A path that is, or would be, held back or hidden."""

    path: str
    """`<cache>/<base name>`."""
    reaches: str | None
    """Of one that was published by others: the base name of a revoked path that it needs."""
    uses: int
    """How often it was downloaded, named in a push, or called present."""
    last_used_at: int | None
    downloads: list[DownloadView] = []
    """Of its NAR, the latest first, at most 100, for as long as the server keeps them."""
    copies: list[str] = []
    """Visible paths of other caches with the same name and NAR, as `<cache>/<base name>`: it was promoted, or pushed
    there too. They are not hidden."""


class RevocationAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """What a revocation did, or would do."""

    id: int | None
    """Its number. Null: it was not made."""
    count: int
    paths: list[RevokedPath]
    """At most 10,000 of them."""
    pins: list[str]
    """Pins of which a revision is among them, as `<cache>/<pin>`."""
    downloaders: list[DownloadView] = []
    """Who downloaded the paths that are named, at most 1,000, the latest first."""


class RevocationView(msgspec.Struct, frozen=True, kw_only=True):
    """A revocation."""

    id: int
    by: str
    since: int
    until: int | None
    cache: str | None
    created_at: int
    created_by: int | None
    """The number of the token that made it."""
    undone_at: int | None


class UndoAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """What became visible again."""

    restored: list[str]
    """As `<cache>/<base name>`."""
    left: int
    """How many paths stay hidden: something that they need was purged, is damaged, or is held back by another one."""

"""Bodies about pins."""

import msgspec


class PinPut(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Body of ``PUT …/pins/{pin name}``. Of the three `keep_…` at most one is given."""

    store_path: str
    """A visible path: its base name, its whole path, or its hash part alone."""
    artifacts: list[str] = []
    """Files and folders inside the store path that are to be had by the pin's name. These take the place of others."""
    keep_days: int | None = None
    """Keep revisions younger than this, and the newest."""
    keep_revisions: int | None = None
    """Keep so many of the newest revisions."""
    keep_forever: bool = False
    """Keep all revisions. With none of the three, a pin keeps its rule, and a new one keeps all."""


class RevisionView(msgspec.Struct, frozen=True, kw_only=True):
    """One path that a pin was put on."""

    number: int
    """1 is the first."""
    store_path: str
    """Base name."""
    artifacts: list[str]
    is_kept: bool
    """Whether the pin still keeps it. The newest is always kept."""
    is_visible: bool
    """False: the path is in the trash."""
    created_at: int
    created_by: str | None
    """Description of the token that pinned it."""


class PinView(msgspec.Struct, frozen=True, kw_only=True):
    """A pin, and what it stands for."""

    name: str
    full_path: str
    """The store path of the newest revision, with the store directory."""
    keep_days: int | None
    keep_revisions: int | None
    """With both null, all revisions are kept."""
    created_at: int
    newest: RevisionView


class PinDetails(PinView, frozen=True, kw_only=True):
    """Body of ``GET …/pins/{pin name}``: a pin with its revisions, the newest first."""

    revisions: list[RevisionView]
    has_older: bool
    """Whether there are more, before the last of these."""


class PinAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a ``PUT …/pins/{pin name}``."""

    pin: PinView
    is_new_revision: bool
    """False: the pin was on that path already; its rule and artifacts are now those of the request."""

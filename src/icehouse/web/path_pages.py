"""Paths of a cache: searched for, and one of them with what is known of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final
from urllib.parse import urlencode

from litestar import Response, get
from litestar.di import NamedDependency
from litestar.params import FromPath, QueryParameter

from icehouse.api.paths import ChainAnswer, FoundPaths, PathSummary, PathView, SignatureCheck, WhyAnswer
from icehouse.errors import InvalidFormat, NotFound
from icehouse.nix.store_paths import StoreDir, parse_hash_part
from icehouse.rules.access import Permission, allows
from icehouse.rules.path_queries import parse_query
from icehouse.services.access import Entry
from icehouse.services.paths import MAX_PUBLISHERS
from icehouse.web.cache_tabs import CACHE_PATH, CacheHead, make_head
from icehouse.web.pages import Page
from icehouse.web.path_links import PathLink, link_to
from icehouse.web.visits import Visit

PATHS_PATH: Final = f"{CACHE_PATH}/paths"
TAB: Final = "Paths"

_SHOWN_REFERENCES: Final = 500
_SEARCHED: Final = 1_000  # of what pins keep; the page that explains looks further

Text = Annotated[str, QueryParameter(name="q")]
By = Annotated[str, QueryParameter()]
To = Annotated[str, QueryParameter()]
Before = Annotated[str | None, QueryParameter()]


@dataclass(frozen=True, slots=True)
class PathsPage(Page):
    """All that the template sees."""

    template = "paths.html"

    head: CacheHead
    text: str
    by: str
    rows: Sequence[tuple[PathLink, PathSummary]]
    newest: str
    """Where the first ones are."""
    older: str | None
    """Where the next ones are."""
    is_first: bool
    unknown: PathLink | None = None
    """A path that was asked for, and is not here; its page tells why."""
    fault: str | None = None

    max_publishers = MAX_PUBLISHERS

    @property
    def title(self) -> str:
        """What is listed, and of which cache."""
        return f"Paths of {self.head.name}"


@dataclass(frozen=True, slots=True)
class Reference:
    """What a path refers to."""

    link: PathLink
    is_itself: bool


@dataclass(frozen=True, slots=True)
class PathPage(Page):
    """All that the template sees."""

    template = "path.html"

    head: CacheHead
    path: PathLink
    view: PathView
    why: WhyAnswer
    full_path: str
    narinfo: str
    fetch_command: str
    realise_command: str
    references: Sequence[Reference]
    referrers: Sequence[PathLink]
    more_referrers: str | None
    signatures: Sequence[tuple[str, SignatureCheck]]
    """Each as it stands in the narinfo, with what became of it."""
    has_log: bool
    has_use: bool
    """Whether the visitor is told when it was last used."""
    may_pin: bool
    may_delete: bool

    @property
    def title(self) -> str:
        """The path's name."""
        return f"{self.path.name} in {self.head.name}"


@dataclass(frozen=True, slots=True)
class AbsentPathPage(Page):
    """All that the template sees."""

    template = "absent_path.html"

    head: CacheHead
    hash_part: str
    why: WhyAnswer

    @property
    def title(self) -> str:
        """What is not here."""
        return f"{self.hash_part} in {self.head.name}"


@dataclass(frozen=True, slots=True)
class ReferrersPage(Page):
    """All that the template sees."""

    template = "referrers.html"

    head: CacheHead
    path: PathLink
    rows: Sequence[tuple[PathLink, PathSummary]]
    older: str | None
    has_log: bool

    @property
    def title(self) -> str:
        """Whose referrers they are."""
        return f"Referrers of {self.path.name} in {self.head.name}"


@dataclass(frozen=True, slots=True)
class WhyPage(Page):
    """All that the template sees."""

    template = "why.html"

    head: CacheHead
    path: PathLink
    why: WhyAnswer
    chain: Sequence[PathLink]
    """From what is pinned to the path; empty: no pin is known to keep it."""
    to: str
    """What else the visitor asks for: why the path needs that."""
    way: Sequence[PathLink]
    """From the path to that; empty: it does not reach it, or nothing was asked for."""
    is_complete: bool
    """Whether all that the path reaches was looked at."""
    has_log: bool

    @property
    def title(self) -> str:
        """What is explained."""
        return f"Why {self.path.name} is in {self.head.name}"


@get(PATHS_PATH)
async def show_paths(
    cache: FromPath[str], visit: NamedDependency[Visit], text: Text = "", by: By = "", before: Before = None
) -> Response[Any]:
    """The paths of a cache, the newest first, or those that are searched for."""
    entry = await visit.enter(cache, Permission.PULL)
    head = make_head(visit, entry, TAB)
    name = entry.cache.name
    with_hidden = may_see_hidden(visit, entry)
    try:
        hash_part = parse_query(text).hash_part
        found = await visit.parts.paths.search(entry.cache, text, by=by, before=before, with_hidden=with_hidden)
    except InvalidFormat as exc:
        page = PathsPage(head, text, by, [], head.current, None, is_first=True, fault=str(exc))
        return visit.show(page, status=visit.parts.statuses[InvalidFormat][0])
    if hash_part is not None and found.paths and not by:
        return visit.go(link_to(name, found.paths[0].store_path).page)
    rows = [(link_to(name, path.store_path), path) for path in found.paths]
    older = None if found.before is None else f"{_list_path(name)}?{_query(text, by, found.before)}"
    unknown = None if hash_part is None or rows else link_to(name, hash_part)
    newest = f"{_list_path(name)}?{_query(text, by, '')}"
    return visit.show(PathsPage(head, text, by, rows, newest, older, is_first=before is None, unknown=unknown))


@get(f"{PATHS_PATH}/{{hash_part:str}}")
async def show_path(cache: FromPath[str], hash_part: FromPath[str], visit: NamedDependency[Visit]) -> Response[Any]:
    """One path of a cache; of one that is not visible, why it is not."""
    entry = await visit.enter(cache, Permission.PULL)
    part = parse_hash_part(hash_part)
    head = make_head(visit, entry, TAB)
    with_address = allows(visit.grant, Permission.ADMIN, entry.cache.name)
    with_use = allows(visit.grant, Permission.PUSH, entry.cache.name)
    paths = visit.parts.paths
    why = await paths.explain(entry.cache, part, max_searched=_SEARCHED)
    try:
        view = await paths.show(entry.cache, part, with_use=with_use, with_address=with_address)
    except NotFound:
        status = 200 if why.state == "hidden" else visit.parts.statuses[NotFound][0]
        return visit.show(AbsentPathPage(head, part, why), status=status)
    referrers = await paths.list_referrers(entry.cache, part, with_hidden=may_see_hidden(visit, entry))
    has_log = await visit.parts.logs.has_log(entry.cache, view.deriver)
    return visit.show(_make_page(visit, entry, head, view, why, referrers, has_log=has_log, has_use=with_use))


@get(f"{PATHS_PATH}/{{hash_part:str}}/referrers")
async def show_referrers(
    cache: FromPath[str], hash_part: FromPath[str], visit: NamedDependency[Visit], before: Before = None
) -> Response[Any]:
    """What refers to a visible path, a page of it."""
    entry = await visit.enter(cache, Permission.PULL)
    view = await visit.parts.paths.show(entry.cache, part := parse_hash_part(hash_part))
    with_hidden = may_see_hidden(visit, entry)
    found = await visit.parts.paths.list_referrers(entry.cache, part, before=before, with_hidden=with_hidden)
    name = entry.cache.name
    path = link_to(name, view.store_path)
    rows = [(link_to(name, each.store_path), each) for each in found.paths]
    older = None if found.before is None else f"{path.page}/referrers?{_query('', '', found.before)}"
    has_log = await visit.parts.logs.has_log(entry.cache, view.deriver)
    return visit.show(ReferrersPage(make_head(visit, entry, TAB), path, rows, older, has_log))


@get(f"{PATHS_PATH}/{{hash_part:str}}/why")
async def show_why(
    cache: FromPath[str], hash_part: FromPath[str], visit: NamedDependency[Visit], to: To = ""
) -> Response[Any]:
    """Why a visible path is in the cache; and why its closure has another one."""
    entry = await visit.enter(cache, Permission.PULL)
    view = await visit.parts.paths.show(entry.cache, part := parse_hash_part(hash_part))
    why = await visit.parts.paths.explain(entry.cache, part)
    name = entry.cache.name
    chain = [] if why.kept_by is None else why.kept_by.chain
    found = ChainAnswer(chain=[], is_complete=True)
    sizes = visit.parts.closure_sizes
    if (target := await sizes.find_member(entry.cache, part, to)) is not None:
        found = await sizes.find_chain(entry.cache, part, target)
    return visit.show(
        WhyPage(
            head=make_head(visit, entry, TAB),
            path=link_to(name, view.store_path),
            why=why,
            chain=[link_to(name, each) for each in chain],
            to=to.strip(),
            way=[link_to(name, each) for each in found.chain],
            is_complete=found.is_complete,
            has_log=await visit.parts.logs.has_log(entry.cache, view.deriver),
        )
    )


def may_see_hidden(visit: Visit, entry: Entry) -> bool:
    """Whether the visitor is shown what is in the trash."""
    return allows(visit.grant, Permission.DELETE, entry.cache.name)


def _list_path(cache_name: str) -> str:
    return f"/ui/caches/{cache_name}/paths"


def _query(text: str, by: str, before: str) -> str:
    return urlencode({name: value for name, value in (("q", text), ("by", by), ("before", before)) if value})


def _make_page(
    visit: Visit,
    entry: Entry,
    head: CacheHead,
    view: PathView,
    why: WhyAnswer,
    referrers: FoundPaths,
    *,
    has_log: bool,
    has_use: bool,
) -> PathPage:
    name = entry.cache.name
    url = f"{visit.parts.public_url}/{name}"
    full_path = f"{entry.cache.store_dir}/{view.store_path}"
    return PathPage(
        head=head,
        path=link_to(name, view.store_path),
        view=view,
        why=why,
        full_path=full_path,
        narinfo=render_view(view, entry.cache.store_dir),
        fetch_command=f"nix copy --from {url} {full_path}",
        realise_command=f"nix-store --realise {full_path} --option extra-substituters {url}",
        references=[
            Reference(link_to(name, reference), is_itself=reference == view.store_path)
            for reference in view.references[:_SHOWN_REFERENCES]
        ],
        referrers=[link_to(name, path.store_path) for path in referrers.paths],
        more_referrers=referrers.before,
        signatures=list(zip(view.signatures, view.signature_checks, strict=True)),
        has_log=has_log,
        has_use=has_use,
        may_pin=visit.may(entry.cache, Permission.PIN),
        may_delete=visit.may(entry.cache, Permission.DELETE),
    )


def render_view(view: PathView, store_dir: StoreDir) -> str:
    """The narinfo of a path, line by line as it is served."""
    fields = [
        ("StorePath", f"{store_dir}/{view.store_path}"),
        ("URL", view.url),
        ("Compression", "zstd"),
        ("FileHash", view.file_hash),
        ("FileSize", str(view.file_size)),
        ("NarHash", view.nar_hash),
        ("NarSize", str(view.nar_size)),
        ("References", " ".join(view.references)),
        *([("Deriver", view.deriver)] if view.deriver else []),
        *([("System", view.system)] if view.system else []),
        *(("Sig", signature) for signature in view.signatures),
        *([("CA", view.ca)] if view.ca else []),
    ]
    return "".join(f"{name}: {value}\n" for name, value in fields)

"""What is in a path: its folders and files, and the log of its build."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Annotated, Any, Final, Protocol, assert_never
from urllib.parse import quote, unquote_to_bytes

from litestar import Request, Response, get
from litestar.di import NamedDependency
from litestar.params import FromPath, QueryParameter
from litestar.response import Stream

from icehouse.api.paths import PathView
from icehouse.errors import NotFound
from icehouse.nix.derivations import parse_derivation
from icehouse.nix.excerpts import show_name, show_text
from icehouse.nix.listing import ListedDirectory, ListedNode, ListedRegular, ListedSymlink
from icehouse.nix.store_paths import HashPart, StoreDir, parse_hash_part
from icehouse.rules.access import Permission
from icehouse.services.access import Entry
from icehouse.services.contents import MAX_TEXT_BYTES, FoundFile, FoundFolder
from icehouse.services.logs import TextLog
from icehouse.web.cache_tabs import CacheHead, make_head
from icehouse.web.pages import Page
from icehouse.web.path_links import PathLink, link_to
from icehouse.web.path_pages import PATHS_PATH, TAB
from icehouse.web.visits import Visit

_FILES: Final = f"{PATHS_PATH}/{{hash_part:str}}/files"
_DOWNLOAD: Final = f"{PATHS_PATH}/{{hash_part:str}}/download"
_LOG: Final = f"{PATHS_PATH}/{{hash_part:str}}/log"
_ENTRIES: Final = 1_000
MAX_LOG_BYTES: Final = 512 * 1024
"""Of a log that is shown; all of it can be downloaded."""

Start = Annotated[int, QueryParameter(ge=0, le=10**6)]


@dataclass(frozen=True, slots=True)
class Crumb:
    """A folder above what is shown."""

    name: str
    page: str


@dataclass(frozen=True, slots=True)
class FolderEntry:
    """A row of a folder."""

    name: str
    kind: str
    page: str | None
    """`None`: a symlink that leads out of the store."""
    target: str | None
    """Of a symlink."""
    size: int | None
    """Of a file."""
    download: str | None


@dataclass(frozen=True, slots=True)
class FolderPage(Page):
    """All that the template sees."""

    template = "folder.html"

    head: CacheHead
    path: PathLink
    crumbs: Sequence[Crumb]
    entries: Sequence[FolderEntry]
    count: int
    start: int
    next: str | None
    has_log: bool

    @property
    def title(self) -> str:
        """Which folder it is."""
        return f"{'/'.join([self.path.name, *(each.name for each in self.crumbs[1:])])} in {self.head.name}"


@dataclass(frozen=True, slots=True)
class FilePage(Page):
    """All that the template sees."""

    template = "file.html"

    head: CacheHead
    path: PathLink
    crumbs: Sequence[Crumb]
    size: int
    text: str | None
    """`None`: it is no text, or too much of it."""
    download: str
    has_log: bool

    max_text_bytes = MAX_TEXT_BYTES

    @property
    def title(self) -> str:
        """Which file it is."""
        return f"{self.crumbs[-1].name} in {self.path.name}"


@dataclass(frozen=True, slots=True)
class LogPage(Page):
    """All that the template sees."""

    template = "log.html"

    head: CacheHead
    path: PathLink
    derivation: str
    size: int
    text: str
    is_cut: bool
    download: str
    has_log: bool

    @property
    def title(self) -> str:
        """Whose log it is."""
        return f"Build log of {self.path.name}"


@get(_FILES)
async def show_root(
    cache: FromPath[str], hash_part: FromPath[str], visit: NamedDependency[Visit], start: Start = 0
) -> Response[Any]:
    """What a visible path has at its top."""
    return await _show(visit, cache, parse_hash_part(hash_part), [], start)


@get(f"{_FILES}/{{names:path}}")
async def show_files(
    cache: FromPath[str], hash_part: FromPath[str], visit: NamedDependency[Visit], start: Start = 0
) -> Response[Any]:
    """A folder or a file in a visible path. Symlinks are followed."""
    return await _show(visit, cache, parse_hash_part(hash_part), _names_of(visit), start)


@get(_DOWNLOAD)
async def download_root(
    cache: FromPath[str], hash_part: FromPath[str], visit: NamedDependency[Visit], request: Request[Any, Any, Any]
) -> Response[Any]:
    """A visible path that is a file. Of a folder there is its page."""
    return await _download(visit, request, cache, parse_hash_part(hash_part), [])


@get(f"{_DOWNLOAD}/{{names:path}}")
async def download_file(
    cache: FromPath[str], hash_part: FromPath[str], visit: NamedDependency[Visit], request: Request[Any, Any, Any]
) -> Response[Any]:
    """A file in a visible path, for the disk and never for the browser to show."""
    return await _download(visit, request, cache, parse_hash_part(hash_part), _names_of(visit))


@get(_LOG)
async def show_log(cache: FromPath[str], hash_part: FromPath[str], visit: NamedDependency[Visit]) -> Response[Any]:
    """The log of the build of a visible path."""
    entry = await visit.enter(cache, Permission.PULL)
    view = await visit.parts.paths.show(entry.cache, parse_hash_part(hash_part))
    log = await _open_log(visit, entry, view)
    pieces = [bytes(block) async for block in log.blocks(0, min(log.file_size, MAX_LOG_BYTES))]
    path = link_to(entry.cache.name, view.store_path)
    return visit.show(
        LogPage(
            head=make_head(visit, entry, TAB),
            path=path,
            derivation=view.deriver or "",
            size=log.file_size,
            text=show_log_text(b"".join(pieces)),
            is_cut=log.file_size > MAX_LOG_BYTES,
            download=f"{path.page}/log/text",
            has_log=True,
        )
    )


@get(f"{_LOG}/text")
async def download_log(
    cache: FromPath[str], hash_part: FromPath[str], visit: NamedDependency[Visit], request: Request[Any, Any, Any]
) -> Response[Any]:
    """All of the log, for the disk."""
    entry = await visit.enter(cache, Permission.PULL)
    view = await visit.parts.paths.show(entry.cache, parse_hash_part(hash_part))
    log = await _open_log(visit, entry, view)
    return _attach(request, log, f"{view.deriver}.log".encode())


def show_log_text(data: bytes) -> str:
    """A log for people: without colours, and what is not to be seen as an escape."""
    text = data.decode(errors="replace").replace("\r\n", "\n")
    return show_text("\n".join(_strip_colours(line) for line in text.split("\n")))


def _strip_colours(line: str) -> str:
    """A line without the sequences of terminals that begin with ESC and ``[`` and end with a letter.

    Source: ECMA-48, section 5.4.
    """
    if "\x1b[" not in line:
        return line
    first, *rest = line.split("\x1b[")
    kept = [first]
    for piece in rest:
        end = next((place for place, letter in enumerate(piece) if "\x40" <= letter <= "\x7e"), len(piece) - 1)
        kept.append(piece[end + 1 :])
    return "".join(kept)


async def _open_log(visit: Visit, entry: Entry, view: PathView) -> TextLog:
    if view.deriver is None:
        raise NotFound(f"what {view.store_path} was built from is not known, and so no log of it")
    return (await visit.parts.logs.open_log(entry.cache, parse_derivation(view.deriver))).as_text()


async def _show(visit: Visit, cache: str, hash_part: HashPart, names: Sequence[bytes], start: int) -> Response[Any]:
    entry = await visit.enter(cache, Permission.PULL)
    view = await visit.parts.paths.show(entry.cache, hash_part)
    found = await visit.parts.contents.find(entry.cache, hash_part, names)
    head = make_head(visit, entry, TAB)
    path = link_to(entry.cache.name, view.store_path)
    has_log = await visit.parts.logs.has_log(entry.cache, view.deriver)
    crumbs = _make_crumbs(path, names)
    if isinstance(found, FoundFolder):
        return visit.show(_make_folder(head, path, names, found.node, entry.cache.store_dir, start, has_log=has_log))
    page = FilePage(
        head=head,
        path=path,
        crumbs=crumbs,
        size=found.file.file_size,
        text=None if (text := await visit.parts.contents.read_text(found)) is None else show_text(text),
        download=_address(path, "download", names),
        has_log=has_log,
    )
    return visit.show(page)


def _make_folder(
    head: CacheHead,
    path: PathLink,
    names: Sequence[bytes],
    node: ListedDirectory,
    store_dir: StoreDir,
    start: int,
    *,
    has_log: bool,
) -> FolderPage:
    entries = [
        _make_entry(path, [*names, name], each, store_dir)
        for name, each in islice(node.entries.items(), start, start + _ENTRIES)
    ]
    count = len(node.entries)
    following = start + len(entries)
    more = f"{_address(path, 'files', names)}?start={following}" if following < count else None
    return FolderPage(head, path, _make_crumbs(path, names), entries, count, start, more, has_log)


def _make_entry(path: PathLink, names: Sequence[bytes], node: ListedNode, store_dir: StoreDir) -> FolderEntry:
    name = show_name(names[-1])
    page = _address(path, "files", names)
    match node:
        case ListedRegular():
            kind = "executable" if node.executable else "file"
            return FolderEntry(name, kind, page, None, node.size, _address(path, "download", names))
        case ListedSymlink(target):
            leads_out = target.startswith(b"/") and not target.startswith(f"{store_dir}/".encode())
            return FolderEntry(name, "symlink", None if leads_out else page, show_name(target), None, None)
        case ListedDirectory():
            return FolderEntry(name, "folder", page, None, None, None)
        case _:
            assert_never(node)


def _make_crumbs(path: PathLink, names: Sequence[bytes]) -> list[Crumb]:
    above = [Crumb(path.name, _address(path, "files", []))]
    return above + [
        Crumb(show_name(name), _address(path, "files", names[: place + 1])) for place, name in enumerate(names)
    ]


def _address(path: PathLink, what: str, names: Sequence[bytes]) -> str:
    return "/".join((f"{path.page}/{what}", *(quote(name, safe="") for name in names)))


def _names_of(visit: Visit) -> list[bytes]:
    """The names after the path's own address, as bytes: they need not be UTF-8."""
    way = visit.path.encode("latin-1").split(b"/", 7)[7]
    return [unquote_to_bytes(name) for name in way.removesuffix(b"/").split(b"/")]


class _OpenFile(Protocol):
    @property
    def file_size(self) -> int: ...

    def blocks(self, start: int, stop: int) -> AsyncIterator[bytes | bytearray]: ...


async def _download(
    visit: Visit, request: Request[Any, Any, Any], cache: str, hash_part: HashPart, names: Sequence[bytes]
) -> Response[Any]:
    entry = await visit.enter(cache, Permission.PULL)
    found = await visit.parts.contents.find(entry.cache, hash_part, names)
    if not isinstance(found, FoundFile):
        return visit.go(_address(link_to(entry.cache.name, hash_part), "files", names))
    return _attach(request, found.file, names[-1] if names else found.store_path.name.encode())


def _attach(request: Request[Any, Any, Any], file: _OpenFile, name: bytes) -> Response[Any]:
    """The answer by which the browser keeps a file and does not show it: it may be anybody's page."""
    headers = {
        "content-disposition": f"attachment; filename*=UTF-8''{quote(show_name(name), safe='')}",
        "content-length": str(file.file_size),
        "cache-control": "no-store",
    }
    kind = "application/octet-stream"
    if request.scope["state"].get("is_head"):
        return Response(b"", headers=headers, media_type=kind)
    return Stream(_pieces(file), headers=headers, media_type=kind)


async def _pieces(file: _OpenFile) -> AsyncGenerator[bytes]:
    async for block in file.blocks(0, file.file_size):
        yield bytes(block)

"""``icehouse path``: what a cache knows of paths, and the way of a path to the trash and back."""

import asyncio
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Final

import typer

from icehouse.cli.cache_argument import CacheArgument
from icehouse.cli.exits import EXIT_CODES_HELP
from icehouse.cli.printer import Printer, bytes_text, time_text
from icehouse.cli.services import JsonFlag, QuietFlag, Services, carry_out
from icehouse.errors import InvalidFormat, NotFound, Unavailable

if TYPE_CHECKING:
    from pyreqwest.client import Client

    from icehouse.api.paths import PathSummary, Provenance, WhyAnswer
    from icehouse.nix.store_paths import HashPart

_UPSTREAM_SECONDS: Final = 5.0

app = typer.Typer(
    help="See what a cache knows of store paths; delete and restore them.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)

PathArgument = Annotated[
    str,
    typer.Argument(
        metavar="PATH", help="A store path, its base name or hash part, or a symlink to one such as ./result."
    ),
]


@dataclass(frozen=True, slots=True)
class InfoOptions:
    """A path in a cache."""

    cache: str
    path: str


@app.command(epilog=EXIT_CODES_HELP)
def info(
    cache: CacheArgument,
    path: PathArgument,
    *,
    quiet: QuietFlag = False,
    json: JsonFlag = False,
) -> None:
    """Show a path of a cache; or say why it is not there."""
    carry_out(run_info, InfoOptions(cache, path), Printer(is_json=json, is_quiet=quiet))


async def run_info(options: InfoOptions, services: Services, printer: Printer) -> None:
    """Show a path.

    Raises:
        NotFound: it is not there; the message says why.
    """
    address = services.find_cache(options.cache)
    hash_part = find_path(options.path, services)
    async with services.server(address.login) as server:
        try:
            view = await server.show_path(address.name, hash_part)
        except NotFound as error:
            answer = await server.why(address.name, hash_part)
            raise NotFound(f"{options.path} is not in {address.name}: {answer.explanation}") from error
    lines = [
        f"path         {view.store_path}",
        f"NAR          {bytes_text(view.nar_size)}, {view.nar_hash}",
        f"file         {bytes_text(view.file_size)}, {view.url}",
        *(f"reference    {reference}" for reference in view.references),
        *([f"deriver      {view.deriver}"] if view.deriver else []),
        *([f"system       {view.system}"] if view.system else []),
        *([f"CA           {view.ca}"] if view.ca else []),
        *(f"signature    {signature}" for signature in view.signatures),
        f"published    {time_text(view.created_at)}" + (f" by {view.published_by}" if view.published_by else ""),
        *_provenance_lines(view.provenance),
    ]
    printer.result("\n".join(lines), view)


def _provenance_lines(provenance: "Provenance | None") -> list[str]:
    if provenance is None:
        return []
    told = [("token", str(provenance.token_id)), ("from", provenance.address)]
    if (job := provenance.job) is not None:
        told += [
            ("issuer", job.issuer),
            ("subject", job.subject),
            ("workflow", job.workflow),
            ("commit", job.commit),
            ("run", job.run_url or job.run),
        ]
    return [f"{name:<12} {value}" for name, value in told if value]


@dataclass(frozen=True, slots=True)
class WhyOptions:
    """A path that may be in a cache."""

    cache: str
    path: str


@app.command(epilog=EXIT_CODES_HELP)
def why(cache: CacheArgument, path: PathArgument, *, quiet: QuietFlag = False, json: JsonFlag = False) -> None:
    """Say why a path is in a cache, or is not.

    Who pushed it; which pin keeps it; what hid or purged it; what it waits for; which upstream has it.
    """
    carry_out(run_why, WhyOptions(cache, path), Printer(is_json=json, is_quiet=quiet))


async def run_why(options: WhyOptions, services: Services, printer: Printer) -> None:
    """Explain. What is not in the cache may be in its upstreams, which are asked from here."""
    import msgspec

    address = services.find_cache(options.cache)
    async with services.server(address.login) as server:
        answer = await server.why(address.name, find_path(options.path, services))
    asked = await _ask_upstreams(answer)
    upstream = next((url for url, has_it in asked.items() if has_it), answer.upstream)
    lines = [f"{answer.state}: {answer.explanation}", *(_describe_upstream(*each) for each in asked.items())]
    printer.result("\n".join(lines), msgspec.structs.replace(answer, upstream=upstream))


async def _ask_upstreams(answer: "WhyAnswer") -> dict[str, bool | None]:
    """Which of the upstreams have a path that the cache does not have; `None`: it did not tell."""
    from icehouse.client.binary_cache import BinaryCache, binary_caches
    from icehouse.nix.store_paths import parse_hash_part

    if not answer.upstreams:
        return {}
    hash_part = parse_hash_part(answer.hash_part)

    async def ask(client: "Client", url: str) -> bool | None:
        try:
            async with asyncio.timeout(_UPSTREAM_SECONDS):
                return await BinaryCache(client, url).find(hash_part) is not None
        except (TimeoutError, InvalidFormat, Unavailable):
            return None

    async with binary_caches() as client:
        answers = await asyncio.gather(*(ask(client, url) for url in answer.upstreams))
    return dict(zip(answer.upstreams, answers, strict=True))


def _describe_upstream(url: str, has_it: bool | None) -> str:  # noqa: FBT001  what is described, beside its name
    match has_it:
        case True:
            return f"The upstream {url} has it: clients get it from there."
        case False:
            return f"The upstream {url} does not have it."
        case None:
            return f"The upstream {url} did not tell whether it has it."


@dataclass(frozen=True, slots=True)
class ListOptions:
    """The visible paths of a cache, or those in its trash."""

    cache: str
    is_trash: bool = False


@app.command("list", epilog=EXIT_CODES_HELP)
def list_(
    cache: CacheArgument,
    *,
    trash: Annotated[bool, typer.Option("--trash", help="Those in the trash, with what put them there.")] = False,
    quiet: QuietFlag = False,
    json: JsonFlag = False,
) -> None:
    """List the paths of a cache."""
    carry_out(run_list, ListOptions(cache, trash), Printer(is_json=json, is_quiet=quiet))


async def run_list(options: ListOptions, services: Services, printer: Printer) -> None:
    """List paths: for people while pages come, for programs as one list."""
    address = services.find_cache(options.cache)
    found: list[PathSummary] = []
    async with services.server(address.login) as server:
        async for page in server.list_paths(address.name, is_trash=options.is_trash):
            if printer.is_json:
                found += page
            else:
                width = max((len(str(path.store_path)) for path in page), default=0)
                printer.result("\n".join(_line(path, width) for path in page), page)
    if printer.is_json:
        printer.result("", found)


def _line(path: "PathSummary", width: int) -> str:
    line = f"{path.store_path!s:<{width}}  {bytes_text(path.nar_size):>8}  {time_text(path.created_at)}"
    if path.hidden_at is not None:
        line += f"  hidden {time_text(path.hidden_at)}, until {time_text(path.restorable_until)}: {path.hidden_because}"
    return line


@dataclass(frozen=True, slots=True)
class RestoreOptions:
    """A path in the trash of a cache."""

    cache: str
    path: str


@app.command(epilog=EXIT_CODES_HELP)
def restore(cache: CacheArgument, path: PathArgument, *, quiet: QuietFlag = False, json: JsonFlag = False) -> None:
    """Take a path out of the trash, with what it needs from there."""
    carry_out(run_restore, RestoreOptions(cache, path), Printer(is_json=json, is_quiet=quiet))


async def run_restore(options: RestoreOptions, services: Services, printer: Printer) -> None:
    """Restore, and print what came back."""
    address = services.find_cache(options.cache)
    async with services.server(address.login) as server:
        answer = await server.restore_path(address.name, find_path(options.path, services))
    lines = [f"restored {name}" for name in answer.restored] or [f"{options.path} was not in the trash."]
    printer.result("\n".join(lines), answer)


@dataclass(frozen=True, slots=True)
class DeleteOptions:
    """A path to move to the trash; `is_confirmed` once a person said so."""

    cache: str
    path: str
    with_referrers: bool
    is_confirmed: bool


@app.command(epilog=EXIT_CODES_HELP)
def delete(
    cache: CacheArgument,
    path: PathArgument,
    *,
    with_referrers: Annotated[
        bool, typer.Option("--with-referrers", help="Delete all that reaches it too, instead of refusing.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    quiet: QuietFlag = False,
    json: JsonFlag = False,
) -> None:
    """Move a path to the trash. Refuses what a pin keeps, and what other paths refer to."""
    more = " and all that reaches it" if with_referrers else ""
    is_confirmed = yes or typer.confirm(f"Move {path}{more} to the trash of {cache}?", err=True)
    options = DeleteOptions(cache, path, with_referrers, is_confirmed)
    carry_out(run_delete, options, Printer(is_json=json, is_quiet=quiet))


async def run_delete(options: DeleteOptions, services: Services, printer: Printer) -> None:
    """Delete a path, if that was confirmed, and print what went."""
    if not options.is_confirmed:
        printer.message("Nothing was deleted.")
        return
    address = services.find_cache(options.cache)
    hash_part = find_path(options.path, services)
    async with services.server(address.login) as server:
        answer = await server.delete_path(address.name, hash_part, with_referrers=options.with_referrers)
    lines = [f"moved to the trash: {name}" for name in answer.deleted] or [f"{options.path} was in the trash already."]
    printer.result("\n".join(lines), answer)


def find_path(text: str, services: Services) -> "HashPart":
    """The hash part of a full path (also of a file in it), a base name, a hash part alone, or what a symlink leads to.

    What has the form of a store path need not be on this machine.
    """
    from icehouse.client.local_store import LocalStore
    from icehouse.nix.store_paths import HASH_PART_LENGTH, StorePath, parse_hash_part

    if len(text) == HASH_PART_LENGTH and "/" not in text:
        return parse_hash_part(text)
    for segment in text.split("/"):
        if len(segment) > HASH_PART_LENGTH and segment[HASH_PART_LENGTH] == "-":
            return StorePath.parse(segment).hash_part
    if "/" in text or os.path.lexists(text):
        return LocalStore.locate(None, services.environment).find(text).hash_part
    return StorePath.parse(text).hash_part

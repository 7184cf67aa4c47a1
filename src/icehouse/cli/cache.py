"""``icehouse cache``: create, list, show and delete caches."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Final

import typer

from icehouse.cli.exits import EXIT_CODES_HELP
from icehouse.cli.printer import Printer, bytes_text, time_text
from icehouse.cli.services import JsonFlag, QuietFlag, Services, carry_out
from icehouse.errors import InvalidFormat

if TYPE_CHECKING:
    from icehouse.api.caches import CacheView, UpstreamBody

app = typer.Typer(
    help="Create, list, show and delete caches.", no_args_is_help=True, add_completion=False, rich_markup_mode=None
)

_KNOWN_UPSTREAM_KEYS: Final = {
    "https://cache.nixos.org": "cache.nixos.org-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY=",
}

CacheArgument = Annotated[
    str, typer.Argument(metavar="CACHE", help="A cache's name on the logged-in server, or its whole URL.")
]


@dataclass(frozen=True, slots=True)
class CreateOptions:
    """A new cache."""

    cache: str
    is_public: bool = False
    domain: str | None = None
    priority: int = 41
    want_mass_query: bool = True
    store_dir: str = "/nix/store"
    upstreams: tuple[str, ...] | None = None
    """Each a URL and its keys, separated by spaces. None: cache.nixos.org; empty: none."""


@app.command(epilog=EXIT_CODES_HELP)
def create(  # noqa: PLR0913  each is an option of the command
    cache: CacheArgument,
    *,
    public: Annotated[
        bool, typer.Option("--public/--private", help="Whether everybody may pull. Private unless said otherwise.")
    ] = False,
    domain: Annotated[
        str | None, typer.Option(help="Share chunks with the other private caches of this domain.")
    ] = None,
    priority: Annotated[
        int, typer.Option(help="Nix asks caches with lower numbers first; cache.nixos.org has 40.")
    ] = 41,
    mass_query: Annotated[bool, typer.Option(help="Whether Nix may ask for many paths at once.")] = True,
    store_dir: Annotated[str, typer.Option(help="The store directory of its paths.")] = "/nix/store",
    upstream: Annotated[
        list[str] | None,
        typer.Option(
            metavar="'URL KEY…'",
            help="Another cache that its users use too: paths that it signed are not pushed. Its keys may be left out "
            "for https://cache.nixos.org, which is the only upstream unless said otherwise. Can be repeated.",
        ),
    ] = None,
    no_upstream: Annotated[bool, typer.Option("--no-upstream", help="No upstream at all.")] = False,
    quiet: QuietFlag = False,
    json: JsonFlag = False,
) -> None:
    """Create a cache."""
    if upstream and no_upstream:
        raise typer.BadParameter("give --upstream or --no-upstream, not both")
    options = CreateOptions(
        cache,
        is_public=public,
        domain=domain,
        priority=priority,
        want_mass_query=mass_query,
        store_dir=store_dir,
        upstreams=() if no_upstream else tuple(upstream) if upstream else None,
    )
    carry_out(run_create, options, Printer(is_json=json, is_quiet=quiet))


async def run_create(options: CreateOptions, services: Services, printer: Printer) -> None:
    """Create a cache and print how it is used."""
    from icehouse.api.caches import CacheCreate

    address = services.find_cache(options.cache)
    body = CacheCreate(
        name=address.name,
        is_public=options.is_public,
        domain=options.domain,
        priority=options.priority,
        want_mass_query=options.want_mass_query,
        store_dir=options.store_dir,
        upstreams=None if options.upstreams is None else [_parse_upstream(text) for text in options.upstreams],
    )
    async with services.server(address.login) as server:
        view = await server.create_cache(body)
    printer.result(_describe(view), view)


@dataclass(frozen=True, slots=True)
class ListOptions:
    """All caches of the logged-in server."""


@app.command("list", epilog=EXIT_CODES_HELP)
def list_(*, quiet: QuietFlag = False, json: JsonFlag = False) -> None:
    """List the caches that you may pull from."""
    carry_out(run_list, ListOptions(), Printer(is_json=json, is_quiet=quiet))


async def run_list(options: ListOptions, services: Services, printer: Printer) -> None:
    """List caches."""
    del options
    async with services.server(services.default_login()) as server:
        caches = await server.list_caches()
    rows = [(cache.name, "public" if cache.is_public else "private", cache.url) for cache in caches]
    printer.table(("NAME", "ACCESS", "URL"), rows, caches)


@dataclass(frozen=True, slots=True)
class ShowOptions:
    """One cache."""

    cache: str


@app.command(epilog=EXIT_CODES_HELP)
def show(cache: CacheArgument, *, quiet: QuietFlag = False, json: JsonFlag = False) -> None:
    """Show a cache: its address, its keys, and how much is in it."""
    carry_out(run_show, ShowOptions(cache), Printer(is_json=json, is_quiet=quiet))


async def run_show(options: ShowOptions, services: Services, printer: Printer) -> None:
    """Show a cache."""
    import msgspec

    address = services.find_cache(options.cache)
    async with services.server(address.login) as server:
        view = await server.show_cache(address.name)
        size = await server.measure_cache(address.name)
    counts = [
        f"paths        {size.paths}",
        f"NARs         {bytes_text(size.nar_bytes)}",
        f"stored       {bytes_text(size.stored_bytes)}",
    ]
    facts = msgspec.structs.asdict(view) | msgspec.structs.asdict(size)
    printer.result("\n".join([_describe(view), *counts]), facts)


@dataclass(frozen=True, slots=True)
class DeleteOptions:
    """A cache to delete; `is_confirmed` once a person said so."""

    cache: str
    is_confirmed: bool


@app.command(epilog=EXIT_CODES_HELP)
def delete(
    cache: CacheArgument,
    *,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    quiet: QuietFlag = False,
    json: JsonFlag = False,
) -> None:
    """Delete a cache with everything in it. This cannot be undone."""
    is_confirmed = yes or typer.confirm(f"Delete the cache {cache} with everything in it?", err=True)
    carry_out(run_delete, DeleteOptions(cache, is_confirmed), Printer(is_json=json, is_quiet=quiet))


async def run_delete(options: DeleteOptions, services: Services, printer: Printer) -> None:
    """Delete a cache, if that was confirmed."""
    if not options.is_confirmed:
        printer.message("Nothing was deleted.")
        return
    address = services.find_cache(options.cache)
    async with services.server(address.login) as server:
        await server.delete_cache(address.name)
    printer.result(f"Deleted the cache {address.name}.", {"deleted": address.name})


def _parse_upstream(text: str) -> "UpstreamBody":
    from icehouse.api.caches import UpstreamBody
    from icehouse.nix.signing import PublicKey

    url, *keys = text.split() or [""]
    if not keys and (known := _KNOWN_UPSTREAM_KEYS.get(url.rstrip("/"))) is not None:
        keys = [known]
    if not keys:
        raise InvalidFormat(f"upstream {text!r}: expected its URL and at least one public key, separated by spaces")
    return UpstreamBody(url=url, public_keys=[PublicKey.parse(key).render() for key in keys])


def _describe(view: "CacheView") -> str:
    lines = [
        f"name         {view.name}",
        f"access       {'public' if view.is_public else 'private'}",
        f"URL          {view.url}",
        *(f"public key   {key}" for key in view.public_keys),
        *(f"upstream     {upstream.url}" for upstream in view.upstreams),
        f"priority     {view.priority}",
        f"store        {view.store_dir}",
        f"created      {time_text(view.created_at)}",
    ]
    return "\n".join(lines)

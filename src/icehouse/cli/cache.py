"""``icehouse cache``: create, configure, list, show and delete caches."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Final

import typer

from icehouse.cli.cache_argument import CacheArgument
from icehouse.cli.durations import duration_text, parse_duration
from icehouse.cli.exits import EXIT_CODES_HELP
from icehouse.cli.printer import Printer, bytes_text, time_text
from icehouse.cli.services import JsonFlag, QuietFlag, Services, carry_out
from icehouse.cli.sizes import parse_size
from icehouse.errors import InvalidFormat

if TYPE_CHECKING:
    from icehouse.api.caches import CacheView, UpstreamBody

app = typer.Typer(
    help="Create, configure, list, show and delete caches.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)

_KNOWN_UPSTREAM_KEYS: Final = {
    "https://cache.nixos.org": "cache.nixos.org-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY=",
}

NONE: Final = "none"
"""What unsets a setting."""

RetentionOption = Annotated[
    str | None, typer.Option(metavar="TIME|none", help="Let go of what was not used for so long, such as 30d.")
]
KeepPushedOption = Annotated[
    str | None, typer.Option(metavar="TIME|none", help="Let go of what was pushed longer ago, such as 90d.")
]
MaxSizeOption = Annotated[
    str | None,
    typer.Option(metavar="SIZE|none", help="Let go of what was used least recently above this size, such as 100GiB."),
]
LimitOption = Annotated[
    str | None, typer.Option(metavar="SIZE|none", help="Refuse pushes from this size on, such as 120GiB.")
]
TrashOption = Annotated[
    str | None,
    typer.Option(metavar="TIME|none", help="How long what was let go can be restored. 7d unless said otherwise."),
]
StagingOption = Annotated[
    str | None,
    typer.Option(
        "--staging-of",
        metavar="CACHE|none",
        help="Have it be a staging of that cache: pull requests push to it, and `icehouse promote` publishes from it.",
    ),
]


RequireOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="KEY|none",
        help="Demand of what is pushed a signature by this public key, or one of several. May be repeated.",
    ),
]


@dataclass(frozen=True, slots=True)
class Kept:
    """What a cache keeps, as it was typed. `None`: nothing was; ``none``: unset it."""

    retention: str | None = None
    keep_pushed: str | None = None
    max_size: str | None = None
    limit: str | None = None
    trash: str | None = None

    def parse(self) -> dict[str, int | None]:
        """The fields of the API that were named.

        Raises:
            InvalidFormat: an option is no span of time or size.
        """
        typed: tuple[tuple[str, str, str | None, Callable[[str], int], int | None], ...] = (
            ("--retention", "keep_unused_seconds", self.retention, parse_duration, None),
            ("--keep-pushed", "keep_pushed_seconds", self.keep_pushed, parse_duration, None),
            ("--max-size", "budget_bytes", self.max_size, parse_size, None),
            ("--limit", "limit_bytes", self.limit, parse_size, None),
            ("--trash", "trash_seconds", self.trash, parse_duration, 0),
        )
        values: dict[str, int | None] = {}
        for option, name, text, parse, unset in typed:
            if text is not None:
                try:
                    values[name] = unset if text == NONE else parse(text)
                except InvalidFormat as error:
                    raise InvalidFormat(f"{option}: {error}; or none") from error
        return values


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
    """Each a URL and its keys, separated by spaces. None: cache.nixos.org, or those of the cache that it is a staging
    of; empty: none."""
    kept: Kept = field(default_factory=Kept)
    staging_of: str | None = None
    required_keys: tuple[str, ...] = ()


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
    retention: RetentionOption = None,
    keep_pushed: KeepPushedOption = None,
    max_size: MaxSizeOption = None,
    limit: LimitOption = None,
    trash: TrashOption = None,
    staging_of: StagingOption = None,
    require_signature: RequireOption = None,
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
        kept=Kept(retention, keep_pushed, max_size, limit, trash),
        staging_of=None if staging_of == NONE else staging_of,
        required_keys=tuple(require_signature or ()),
    )
    carry_out(run_create, options, Printer(is_json=json, is_quiet=quiet))


async def run_create(options: CreateOptions, services: Services, printer: Printer) -> None:
    """Create a cache and print how it is used."""
    import msgspec

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
        staging_of=options.staging_of,
        required_keys=_parse_required(options.required_keys),
    )
    body = msgspec.structs.replace(body, **options.kept.parse())
    async with services.server(address.login) as server:
        view = await server.create_cache(body)
    printer.result(_describe(view), view)


@dataclass(frozen=True, slots=True)
class ConfigureOptions:
    """What to change about a cache."""

    cache: str
    priority: int | None = None
    kept: Kept = field(default_factory=Kept)
    staging_of: str | None = None
    required_keys: tuple[str, ...] = ()
    """All keys, or ``none`` alone; empty: they stay."""


@app.command(epilog=EXIT_CODES_HELP)
def configure(  # noqa: PLR0913  each is an option of the command
    cache: CacheArgument,
    *,
    retention: RetentionOption = None,
    keep_pushed: KeepPushedOption = None,
    max_size: MaxSizeOption = None,
    limit: LimitOption = None,
    trash: TrashOption = None,
    priority: Annotated[
        int | None, typer.Option(help="Nix asks caches with lower numbers first; cache.nixos.org has 40.")
    ] = None,
    staging_of: StagingOption = None,
    require_signature: RequireOption = None,
    quiet: QuietFlag = False,
    json: JsonFlag = False,
) -> None:
    """Change what a cache keeps, how large it may become, and what it demands. What is not named stays as it is."""
    kept = Kept(retention, keep_pushed, max_size, limit, trash)
    if kept == Kept() and priority is None and staging_of is None and not require_signature:
        raise typer.BadParameter("name at least one setting")
    options = ConfigureOptions(cache, priority, kept, staging_of, tuple(require_signature or ()))
    carry_out(run_configure, options, Printer(is_json=json, is_quiet=quiet))


async def run_configure(options: ConfigureOptions, services: Services, printer: Printer) -> None:
    """Change settings of a cache, and print what it is now."""
    import msgspec

    from icehouse.api.caches import CacheConfigure

    changes: dict[str, int | str | list[str] | None] = {**options.kept.parse()}
    if options.required_keys:
        changes["required_keys"] = _parse_required(options.required_keys)
    if options.priority is not None:
        changes["priority"] = options.priority
    if options.staging_of is not None:
        changes["staging_of"] = None if options.staging_of == NONE else options.staging_of
    address = services.find_cache(options.cache)
    async with services.server(address.login) as server:
        view = await server.configure_cache(address.name, msgspec.convert(changes, CacheConfigure))
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


def _parse_required(texts: Sequence[str]) -> list[str]:
    from icehouse.nix.signing import PublicKey

    if NONE in texts and len(texts) > 1:
        raise InvalidFormat("--require-signature: give none, or keys, not both")
    try:
        return [PublicKey.parse(text).render() for text in texts if text != NONE]
    except InvalidFormat as error:
        raise InvalidFormat(f"--require-signature: {error}; or none") from error


def _describe(view: "CacheView") -> str:
    lines = [
        f"name         {view.name}",
        f"access       {'public' if view.is_public else 'private'}",
        f"URL          {view.url}",
        *(f"public key   {key}" for key in view.public_keys),
        *(f"upstream     {upstream.url}" for upstream in view.upstreams),
        *([] if view.staging_of is None else [f"staging of   {view.staging_of}"]),
        *(f"staging      {name}" for name in view.stagings),
        *(f"demands      a signature by {' or '.join(view.required_keys)}" for _ in view.required_keys[:1]),
        f"priority     {view.priority}",
        f"store        {view.store_dir}",
        f"created      {time_text(view.created_at)}",
        *_describe_kept(view),
    ]
    return "\n".join(lines)


def _describe_kept(view: "CacheView") -> list[str]:
    lines: list[str] = []
    if view.keep_unused_seconds is not None:
        lines.append(f"keeps        what was used in the last {duration_text(view.keep_unused_seconds)}")
    if view.keep_pushed_seconds is not None:
        lines.append(f"keeps        what was pushed in the last {duration_text(view.keep_pushed_seconds)}")
    if view.budget_bytes is not None:
        lines.append(f"keeps        up to {bytes_text(view.budget_bytes)}, what was used last")
    if not lines:
        lines.append("keeps        everything")
    if view.limit_bytes is not None:
        lines.append(f"limit        {bytes_text(view.limit_bytes)}, from which on pushes are refused")
    lines.append(f"trash        {duration_text(view.trash_seconds) if view.trash_seconds else 'none'}")
    if view.warning is not None:
        lines.append(f"warning      {view.warning}")
    return lines

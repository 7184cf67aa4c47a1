"""``icehouse export``: write paths of a cache into a folder that is a binary cache itself."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from icehouse.cli.cache_argument import CacheArgument
from icehouse.cli.exits import EXIT_CODES_HELP
from icehouse.cli.printer import Printer, bytes_text
from icehouse.cli.progress import shown
from icehouse.cli.services import JsonFlag, QuietFlag, Services, carry_out

if TYPE_CHECKING:
    from icehouse.client.export_cache import ExportCounts
    from icehouse.client.server import Server
    from icehouse.nix.store_paths import HashPart

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@dataclass(frozen=True, slots=True)
class ExportOptions:
    """What to export, and where to."""

    cache: str
    folder: Path
    paths: tuple[str, ...] = ()
    since: str | None = None
    connections: int = 8


@app.command(epilog=EXIT_CODES_HELP)
def export(
    cache: CacheArgument,
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where to. Made if it is not there.")],
    paths: Annotated[
        list[str] | None,
        typer.Argument(metavar="PATH", help="Store paths to export with all that they reach. All of CACHE, if none."),
    ] = None,
    *,
    since: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="Only what was pushed since then: 7d, or a day or time of UTC, 2026-11-30."),
    ] = None,
    connections: Annotated[int, typer.Option(min=1, max=128, help="Files to read at once.")] = 8,
    quiet: QuietFlag = False,
    json: JsonFlag = False,
) -> None:
    """Write paths of a cache into a folder that Nix can use as file://FOLDER, and icehouse import can read.

    What the folder has already is not read again. Nix can use the folder at any time, also after an export broke off.
    To export all of a cache, or with --since, needs the permission delete, as icehouse path list does.

    With --json: paths, paths_present (in FOLDER already), paths_exported, paths_absent (references that only upstreams
    have), read_bytes, seconds.
    """
    options = ExportOptions(cache, folder, tuple(paths or ()), since, connections)
    carry_out(run, options, Printer(is_json=json, is_quiet=quiet))


async def run(options: ExportOptions, services: Services, printer: Printer) -> None:
    """Export, show how it goes, and print what was done."""
    from icehouse.cli.path import find_path
    from icehouse.client.export_cache import ExportCounts, export_paths
    from icehouse.client.nar_sources import open_cache

    started = time.monotonic()
    address = services.find_cache(options.cache)
    wanted = [find_path(text, services) for text in options.paths]
    counts = ExportCounts()
    async with services.server(address.login) as server, shown(lambda: _describe(counts), printer):
        view = await server.show_cache(address.name)
        only: set[HashPart] | None = None
        if options.since is not None or not wanted:
            listed = await _list(server, address.name, options.since)
            only = None if options.since is None else set(listed)
            wanted = wanted or listed
        token = await server.get_token()
        async with open_cache(f"{server.url}/{address.name}", token) as source:
            await export_paths(
                source, view, options.folder, wanted, only=only, connections=options.connections, counts=counts
            )
    seconds = time.monotonic() - started
    data = {
        "paths": counts.paths,
        "paths_present": counts.paths_present,
        "paths_exported": counts.paths_exported,
        "paths_absent": counts.paths_absent,
        "read_bytes": counts.read_bytes,
        "seconds": round(seconds, 3),
    }
    printer.result(
        f"Exported {counts.paths_exported} paths to {options.folder} ({counts.paths_present} were there already): "
        f"{bytes_text(counts.read_bytes)} read, in {seconds:.1f} s.",
        data,
    )
    if counts.paths_absent:
        printer.message(
            f"{counts.paths_absent} paths that these refer to are not in the cache, but in its upstreams; where the "
            "folder is used they must be had from there."
        )


async def _list(server: "Server", cache: str, since: str | None) -> "list[HashPart]":
    """The visible paths of a cache; only those that were pushed since then."""
    from icehouse.cli.audit import parse_since
    from icehouse.nix.store_paths import StorePath

    earliest = 0 if since is None else parse_since(since, int(time.time()))
    found: list[HashPart] = []
    async for page in server.list_paths(cache, is_trash=False):
        found += [StorePath.parse(each.store_path).hash_part for each in page if each.created_at >= earliest]
    return found


def _describe(counts: "ExportCounts") -> str:
    if not counts.paths:
        return "Looking for what there is"
    return (
        f"{counts.paths_present + counts.paths_exported} of {counts.paths} paths, {bytes_text(counts.read_bytes)} read"
    )

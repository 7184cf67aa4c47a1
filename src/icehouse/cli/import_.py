"""``icehouse import``: take over paths from another binary cache."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from icehouse.cli.cache_argument import CacheArgument
from icehouse.cli.exits import EXIT_CODES_HELP
from icehouse.cli.printer import Printer, bytes_text
from icehouse.cli.progress import shown
from icehouse.cli.services import JsonFlag, QuietFlag, Services, carry_out
from icehouse.errors import Conflict, InvalidFormat

if TYPE_CHECKING:
    from icehouse.client.import_cache import ImportCounts
    from icehouse.nix.store_paths import HashPart

app = typer.Typer(add_completion=False, rich_markup_mode=None)

MAX_LIST_BYTES: Final = 64 * 1024 * 1024
_MAX_TOLD: Final = 20


@dataclass(frozen=True, slots=True)
class ImportOptions:
    """What to import, from where, and whom to trust."""

    cache: str
    source: str
    paths: tuple[str, ...] = ()
    paths_from: str | None = None
    trusted_public_keys: tuple[str, ...] = ()
    checks_signatures: bool = True
    netrc_file: Path | None = None
    connections: int = 8
    spool: Path | None = None
    jobs: int | None = None


@app.command(epilog=EXIT_CODES_HELP)
def import_(  # noqa: PLR0913  each is an option of the command
    cache: CacheArgument,
    source: Annotated[
        str, typer.Argument(metavar="SOURCE", help="A binary cache: https://…, s3://…, file:///…, or a folder.")
    ],
    paths: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="PATH", help="Store paths to import with all that they reach. All that SOURCE has, if none."
        ),
    ] = None,
    *,
    paths_from: Annotated[
        str | None, typer.Option(metavar="FILE", help="A file with more of them, one a line; - for standard input.")
    ] = None,
    trusted_public_key: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY", help="Import what a key such as this has signed. Can be repeated."),
    ] = None,
    no_check_sigs: Annotated[
        bool, typer.Option("--no-check-sigs", help="Import whatever SOURCE says, whoever signed it.")
    ] = False,
    netrc_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Where SOURCE's password is. $NETRC or ~/.netrc, if not given.")
    ] = None,
    connections: Annotated[int, typer.Option(min=1, max=128, help="Files to read at once.")] = 8,
    spool: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Where up to 1 GiB of NARs, or the largest, lies in between.")
    ] = None,
    jobs: Annotated[
        int | None, typer.Option("--jobs", "-j", min=1, max=256, help="Threads. One a core by default.")
    ] = None,
    quiet: QuietFlag = False,
    json: JsonFlag = False,
) -> None:
    """Import paths from another binary cache: closures, or all that it has.

    Only what CACHE lacks is read. Hashes and sizes are checked, and signatures by the keys that are given; all stay.
    What was imported stays when the command is interrupted, and the same command goes on from there. What cannot be
    imported is told, with what needs it; then it leaves with 1.

    With --json: paths (met and missing), paths_present, paths_upstream, paths_imported, downloaded_bytes, new_bytes,
    sent_bytes, faults (reasons by path), seconds.
    """
    if bool(trusted_public_key) == no_check_sigs:
        raise typer.BadParameter("say whose signatures count, with --trusted-public-key; or --no-check-sigs")
    options = ImportOptions(
        cache,
        source,
        tuple(paths or ()),
        paths_from,
        tuple(trusted_public_key or ()),
        not no_check_sigs,
        netrc_file,
        connections,
        spool,
        jobs,
    )
    carry_out(run, options, Printer(is_json=json, is_quiet=quiet))


async def run(options: ImportOptions, services: Services, printer: Printer) -> None:
    """Import, show how it goes, and print what was done."""
    from icehouse.client.import_cache import ImportCounts, ImportSettings, import_paths
    from icehouse.client.nar_sources import open_source
    from icehouse.client.push_plan import PushSettings
    from icehouse.nix.signing import PublicKey

    started = time.monotonic()
    address = services.find_cache(options.cache)
    keys = tuple(PublicKey.parse(text) for text in options.trusted_public_keys) if options.checks_signatures else None
    wanted = find_wanted(options, services)
    settings = ImportSettings(keys, options.connections, options.spool, PushSettings(jobs=options.jobs))
    counts = ImportCounts()
    async with (
        open_source(options.source, services.environment, options.netrc_file) as source,
        services.server(address.login) as server,
        shown(lambda: _describe(counts), printer, lambda: _fraction(counts)),
    ):
        await import_paths(server, address.name, source, wanted, settings=settings, counts=counts)
    push = counts.push
    seconds = time.monotonic() - started
    data = {
        "paths": push.paths,
        "paths_present": push.paths_present,
        "paths_upstream": push.paths_upstream,
        "paths_imported": push.paths_pushed,
        "downloaded_bytes": counts.downloaded_bytes,
        "new_bytes": push.new_bytes,
        "sent_bytes": push.sent_bytes,
        "faults": counts.faults,
        "seconds": round(seconds, 3),
    }
    printer.result(
        f"Imported {push.paths_pushed} paths ({push.paths_present} were there already, {push.paths_upstream} are "
        f"upstream): {bytes_text(counts.downloaded_bytes)} read, {bytes_text(push.new_bytes)} new, "
        f"{bytes_text(push.sent_bytes)} sent, in {seconds:.1f} s.",
        data,
    )
    if counts.faults:
        told = [f"{name}: {reason}" for name, reason in list(counts.faults.items())[:_MAX_TOLD]]
        for line in told:
            printer.warning(f"not imported: {line}")
        more = f", {len(counts.faults) - len(told)} of them not listed here" if len(counts.faults) > len(told) else ""
        raise Conflict(f"{len(counts.faults)} paths could not be imported{more}")


def find_wanted(options: ImportOptions, services: Services) -> "list[HashPart] | None":
    """The paths that the user names; `None`: all.

    Raises:
        InvalidFormat: something named is no store path, or the list is too long.
        NotFound: the list is not there.
    """
    from icehouse.cli.path import find_path

    texts = list(options.paths)
    if options.paths_from is not None:
        texts += _read_list(options.paths_from, services)
    elif not texts:
        return None
    return list(dict.fromkeys(find_path(text, services) for text in texts))


def _read_list(place: str, services: Services) -> list[str]:
    from icehouse.errors import NotFound

    if place == "-":
        text = services.stdin.read(MAX_LIST_BYTES + 1)
    else:
        try:
            with Path(place).open(encoding="utf-8") as file:
                text = file.read(MAX_LIST_BYTES + 1)
        except OSError as exc:
            raise NotFound(f"{place} cannot be read: {exc.strerror}") from exc
        except UnicodeDecodeError as exc:
            raise InvalidFormat(f"{place} is no text: expected one path a line") from exc
    if len(text) > MAX_LIST_BYTES:
        raise InvalidFormat(f"{place} has more than {MAX_LIST_BYTES} characters: expected one path a line")
    return text.split()


def _describe(counts: "ImportCounts") -> str:
    push = counts.push
    if not push.paths_to_push:
        return f"{counts.narinfos} narinfos read, {counts.present} paths are there"
    return (
        f"{push.paths_pushed} of {push.paths_to_push} paths, {bytes_text(counts.downloaded_bytes)} read, "
        f"{bytes_text(push.new_bytes)} new, {bytes_text(push.sent_bytes)} sent"
    )


def _fraction(counts: "ImportCounts") -> float | None:
    total = counts.push.paths_to_push
    return counts.push.paths_pushed / total if total else None

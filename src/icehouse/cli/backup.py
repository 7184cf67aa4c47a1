"""``icehouse backup``, ``restore`` and ``rebuild``: copies of the database, and what to do without one."""

import asyncio
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from icehouse.cli.data_folder import FolderOption, clock, find_folder, open_folder
from icehouse.cli.printer import Printer, bytes_text, time_text
from icehouse.cli.progress import shown
from icehouse.cli.services import JsonFlag, QuietFlag, Services, carry_out
from icehouse.errors import NotFound

if TYPE_CHECKING:
    from icehouse.services.rebuild import RebuildProgress

_DEFAULT_KEEP: Final = 7  # as in `rules.backups`, which is not imported for the help


@dataclass(frozen=True, slots=True)
class BackupOptions:
    """A backup to make, or those to list."""

    keep: int = _DEFAULT_KEEP
    is_listing: bool = False
    data_dir: Path | None = None


def backup(
    *,
    keep: Annotated[int, typer.Option(min=1, help="How many backups to keep; older ones are removed.")] = _DEFAULT_KEEP,
    list_: Annotated[bool, typer.Option("--list", help="List the backups that are there, and make none.")] = False,
    data_dir: FolderOption = None,
    quiet: QuietFlag = False,
    json: JsonFlag = False,
) -> None:
    """Back up the database into the object store, beside the packs. The server may run meanwhile.

    Packs and journal never change, so a copy of the data folder that is taken after a backup has all that the backup
    needs. The file "secret" is in no backup: keep it elsewhere, since signing keys cannot be read without it.
    """
    carry_out(run_backup, BackupOptions(keep, list_, data_dir), Printer(is_json=json, is_quiet=quiet))


async def run_backup(options: BackupOptions, services: Services, printer: Printer) -> None:
    """Make a backup, or list them."""
    from icehouse.services.backup import Backups

    del services
    with open_folder(options.data_dir) as opened:
        backups = Backups(opened.folder, opened.blobs, clock)
        if options.is_listing:
            found = await backups.list_backups()
            rows = [(each.name, time_text(each.made_at), bytes_text(each.stored_bytes)) for each in found]
            printer.table(("NAME", "MADE", "SIZE"), rows, found)
            return
        made = await backups.back_up(keep=options.keep)
    printer.result(f"Backed up the database as {made.name}: {bytes_text(made.stored_bytes)}.", made)


@dataclass(frozen=True, slots=True)
class RestoreOptions:
    """A backup to put back."""

    backup: str
    data_dir: Path | None = None


def restore(
    backup: Annotated[str, typer.Argument(help="Its name from `icehouse backup --list`; latest; or a file.")],
    *,
    data_dir: FolderOption = None,
    quiet: QuietFlag = False,
    json: JsonFlag = False,
) -> None:
    """Put the database of a backup in the place of the present one, which is kept beside it.

    The server must not run meanwhile. What was pushed after the backup is brought back by `icehouse rebuild`.
    """
    carry_out(run_restore, RestoreOptions(backup, data_dir), Printer(is_json=json, is_quiet=quiet))


async def run_restore(options: RestoreOptions, services: Services, printer: Printer) -> None:
    """Restore, and say what to do next."""
    from icehouse.services.backup import restore as restore_backup
    from icehouse.storage.local import LocalBlobStore

    del services
    folder = find_folder(options.data_dir)
    if not folder.path.is_dir():
        raise NotFound(f"{folder.path} is not there; expected a server's data folder, or a copy of one")
    blobs = LocalBlobStore(folder.path)
    done = await asyncio.to_thread(partial(restore_backup, folder, blobs, options.backup, now=clock()))
    if done.kept is not None:
        printer.message(f"The database that was there is now {folder.path / done.kept}.")
    if not done.has_secret:
        printer.message(f"{folder.secret} is not there: put it back before the server starts.")
    if done.newer_publishes or done.newer_packs:
        printer.message(
            f"{done.newer_publishes} publishes and {done.newer_packs} packs are newer than the backup: "
            "`icehouse rebuild` brings back what they hold."
        )
    printer.result(f"Restored {done.name}, which was made on {time_text(done.made_at)}.", done)


@dataclass(frozen=True, slots=True)
class RebuildOptions:
    """A folder whose database is made again."""

    data_dir: Path | None = None
    public_url: str | None = None


def rebuild(
    *,
    public_url: Annotated[
        str | None,
        typer.Option(
            help="The server's address, whose host stands in the names of new keys.", show_default="as for serve"
        ),
    ] = None,
    data_dir: FolderOption = None,
    quiet: QuietFlag = False,
    json: JsonFlag = False,
) -> None:
    """Make the database again from the packs and the journal, or add to an old one what it lacks.

    The server must not run meanwhile. Everything is read once, and every NAR is hashed before it counts. Signing keys,
    tokens, settings, pins and build logs are in no journal: restore a backup first if there is one. Caches that are
    made again get new keys, which clients must be told.
    """
    carry_out(run_rebuild, RebuildOptions(data_dir, public_url), Printer(is_json=json, is_quiet=quiet))


async def run_rebuild(options: RebuildOptions, services: Services, printer: Printer) -> None:
    """Rebuild, and say what did not come back."""
    import secrets

    from icehouse.config import ServerSettings
    from icehouse.services.rebuild import Rebuild, RebuildProgress
    from icehouse.services.signing import Sealer
    from icehouse.services.start import start

    folder = find_folder(options.data_dir)
    if not folder.path.is_dir():
        raise NotFound(f"{folder.path} is not there; expected a server's data folder, or what is left of one")
    flags = {"data_dir": folder.path, "public_url": options.public_url}
    settings = ServerSettings.load(flags, services.environment)
    with start(folder, clock=clock, draw=secrets.token_bytes) as started, open_folder(folder.path) as opened:
        rebuilding = Rebuild(
            opened.database,
            opened.blobs,
            opened.workers,
            Sealer(started.secret),
            marker=folder.path / "rebuild.unfinished",
            public_url=settings.url,
            clock=clock,
            draw=secrets.token_bytes,
        )
        progress = RebuildProgress()
        async with shown(lambda: _describe(progress), printer):
            report = await rebuilding.run(progress)
        if started.first_token is not None:
            printer.message(f"All tokens are gone. A new administrator's token is in {folder.admin_token}.")
    for cache in report.caches:
        kind = "public" if cache.is_public else "private"
        printer.message(f"CACHE {cache.name} ({kind}) HAS A NEW KEY, which its users must trust: {cache.public_key}")
        for url in cache.upstreams_without_keys:
            printer.message(f"Cache {cache.name}: the keys of its upstream {url} are lost.")
    for name, keys in report.required_keys.items():
        wanted = f"a signature by {' or '.join(keys)}" if keys else "no signature any more"
        printer.message(f"Cache {name} demands {wanted}.")
    for text in report.damaged_objects:
        printer.message(f"damaged: {text}")
    for place, reason in report.lost.items():
        printer.message(f"not brought back: {place}: {reason}")
    printer.result(
        f"Added {report.packs} packs with {report.chunks} chunks, {len(report.caches)} caches, {report.nars} NARs and "
        f"{report.paths} paths; {report.lost_count} paths of the journal did not come back.",
        report,
    )


def _describe(progress: "RebuildProgress") -> str:
    return (
        f"{progress.packs} packs, {progress.chunks} chunks; {progress.entries} of {progress.entries_total} publishes: "
        f"{progress.nars} NARs ({bytes_text(progress.nar_bytes)}), {progress.paths} paths"
    )

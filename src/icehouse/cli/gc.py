"""``icehouse gc``: let go of what retention does not keep, and give the disk back."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from icehouse.cli.completion import complete_caches
from icehouse.cli.data_folder import clock, open_folder
from icehouse.cli.printer import Printer, bytes_text, time_text
from icehouse.cli.progress import shown
from icehouse.cli.services import JsonFlag, QuietFlag, Services, carry_out
from icehouse.errors import Conflict

if TYPE_CHECKING:
    from icehouse.api.collection import CollectionReport, MarkReport, SweepReport
    from icehouse.api.collections import CollectionResult, PastCollection, PinHold


@dataclass(frozen=True, slots=True)
class GcOptions:
    """A collection, or those of the past."""

    cache: str | None = None
    is_dry_run: bool = False
    is_history: bool = False
    data_dir: Path | None = None


def gc(
    cache: Annotated[
        str | None,
        typer.Argument(
            help="A cache's name, or its whole URL. All caches, if left out.", autocompletion=complete_caches
        ),
    ] = None,
    *,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only print what would go, and why.")] = False,
    history: Annotated[bool, typer.Option("--history", help="List what past collections did, and do nothing.")] = False,
    data_dir: Annotated[
        Path | None,
        typer.Option(help="Collect here, on the server's machine, in its data folder; the server may run meanwhile."),
    ] = None,
    quiet: QuietFlag = False,
    json: JsonFlag = False,
) -> None:
    """Let go of what the retention of a cache does not keep, and give back what nothing needs any more.

    What goes is in the trash first. Bytes come back from the disk two days after the last path that needed them was
    purged from there.
    """
    if history and (dry_run or data_dir is not None):
        raise typer.BadParameter("--history goes with neither --dry-run nor --data-dir")
    carry_out(run, GcOptions(cache, dry_run, history, data_dir), Printer(is_json=json, is_quiet=quiet))


async def run(options: GcOptions, services: Services, printer: Printer) -> None:
    """Collect, show how it goes, and print what was done."""
    if options.is_history:
        await _print_history(options, services, printer)
        return
    progress = _Progress()
    async with shown(lambda: progress.text, printer):
        result = await (
            _collect_by_server(options, services, progress)
            if options.data_dir is None
            else _collect_here(options, options.data_dir, progress)
        )
    printer.result(render_result(result), result)


class _Progress:
    """What is being done. Shown by one thread, told by another."""

    def __init__(self) -> None:
        self.text = "waiting for the server"
        self.is_stopped = False

    def tell(self, text: str) -> None:
        """Note it; and end whoever tells, if nobody waits any more.

        Raises:
            Conflict: the command was interrupted.
        """
        if self.is_stopped:
            raise Conflict("interrupted")
        self.text = text


async def _collect_by_server(options: GcOptions, services: Services, progress: _Progress) -> "CollectionResult":
    address = None if options.cache is None else services.find_cache(options.cache)
    login = services.default_login() if address is None else address.login
    async with services.server(login) as server:
        name = None if address is None else address.name
        return await server.collect(name, is_dry_run=options.is_dry_run, show_progress=progress.tell)


async def _collect_here(options: GcOptions, data_dir: Path, progress: _Progress) -> "CollectionResult":
    from icehouse.db.access_times import ACCESS_REVISION
    from icehouse.db.engine import Database
    from icehouse.rules.audit import ON_SERVER
    from icehouse.services.collection_run import RunRequest, run_collection

    request = RunRequest(options.cache, options.is_dry_run, ON_SERVER)
    with open_folder(data_dir) as opened:
        access_database = Database.open(opened.folder.access_database, revision=ACCESS_REVISION)
        try:
            return await asyncio.to_thread(
                run_collection, opened.database, access_database, opened.blobs, clock, request, progress.tell
            )
        finally:
            progress.is_stopped = True
            access_database.close()


async def _print_history(options: GcOptions, services: Services, printer: Printer) -> None:
    address = None if options.cache is None else services.find_cache(options.cache)
    login = services.default_login() if address is None else address.login
    async with services.server(login) as server:
        past = await server.list_collections(None if address is None else address.name)
    columns = ("BEGAN", "TOOK", "CACHE", "HIDDEN", "PURGED", "FREED", "STARTED BY")
    printer.table(columns, [_history_row(each) for each in past], past)


def _history_row(past: "PastCollection") -> tuple[str, ...]:
    return (
        time_text(past.began_at),
        f"{past.ended_at - past.began_at} s",
        past.cache or "all",
        str(sum(mark.hidden for mark in past.marks)),
        str(sum(sweep.purged_paths for sweep in past.sweeps)),
        bytes_text(sum(sweep.deleted_bytes + sweep.stray_bytes for sweep in past.sweeps)),
        past.started_by,
    )


def render_result(result: "CollectionResult") -> str:
    """What was done, or would be, for people."""
    report = result.report
    lines: list[str] = []
    for mark in report.marks:
        lines += _describe_mark(mark, report)
        lines += _describe_pins([pin for pin in result.pins if pin.cache == mark.cache])
    for sweep in report.sweeps:
        lines += _describe_sweep(sweep)
    freed = sum(sweep.deleted_bytes + sweep.stray_bytes for sweep in report.sweeps)
    later = sum(sweep.condemned_bytes for sweep in report.sweeps)
    lines.append(
        f"From the disk {'would come' if report.is_dry_run else 'came'} back {bytes_text(freed)}, and in a day "
        f"{bytes_text(later)} more, unless they are needed again."
    )
    return "\n".join(lines)


def _describe_mark(mark: "MarkReport", report: "CollectionReport") -> list[str]:
    count = len(mark.hidden)
    verb = ("would go" if report.is_dry_run else "went") + " to the trash"
    sizes = f"its size: {bytes_text(mark.stored_bytes_before)}, afterwards {bytes_text(mark.stored_bytes_after)}"
    return [
        f"{mark.cache}: {_number(count, 'path')} {verb}; {sizes}; pins keep {_number(mark.pinned_paths, 'path')}",
        *(f"  {hidden.store_path}: {hidden.reason}" for hidden in mark.hidden),
    ]


def _describe_pins(pins: Sequence["PinHold"]) -> list[str]:
    return [
        f"  pin {pin.pin} keeps {_number(pin.revisions, 'revision')}: {_number(pin.paths, 'path')}, "
        f"{bytes_text(pin.stored_bytes)}"
        for pin in pins
    ]


def _describe_sweep(sweep: "SweepReport") -> list[str]:
    facts = (
        (sweep.purged_paths, f"{_number(sweep.purged_paths, 'path')} purged from the trash"),
        (sweep.purged_nars, f"{_number(sweep.purged_nars, 'NAR')} purged"),
        (
            sweep.condemned_packs,
            f"{_number(sweep.condemned_packs, 'pack')} condemned ({bytes_text(sweep.condemned_bytes)})",
        ),
        (sweep.lifted_packs, f"{_number(sweep.lifted_packs, 'pack')} needed again"),
        (sweep.deleted_packs, f"{_number(sweep.deleted_packs, 'pack')} deleted ({bytes_text(sweep.deleted_bytes)})"),
        (
            sweep.compacted_packs,
            f"{_number(sweep.compacted_packs, 'pack')} compacted into {bytes_text(sweep.compacted_bytes)}",
        ),
        (
            sweep.deleted_strays,
            f"{_number(sweep.deleted_strays, 'stray object')} deleted ({bytes_text(sweep.stray_bytes)})",
        ),
    )
    told = [text for count, text in facts if count]
    return [f"domain {sweep.domain}: {', '.join(told) or 'nothing to remove'}"]


def _number(count: int, noun: str) -> str:
    return f"{count} {noun}" + ("" if count == 1 else "s")

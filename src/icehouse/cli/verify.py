"""``icehouse verify``: read everything back that a server keeps."""

import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from icehouse.cli.data_folder import FolderOption, OpenFolder, clock, open_folder
from icehouse.cli.exits import FAILED
from icehouse.cli.printer import Printer, bytes_text, time_text
from icehouse.cli.progress import shown
from icehouse.cli.services import JsonFlag, QuietFlag, Services, carry_out

if TYPE_CHECKING:
    from icehouse.services.repair import RepairReport
    from icehouse.services.verify import VerifyProgress, VerifyReport
    from icehouse.services.verify_pass import PassStatus

_PHASES: Final = {"packs": "packs", "nars": "NARs", "paths": "paths"}
_SHOWN_PATHS: Final = 20  # of what one finding hits


@dataclass(frozen=True, slots=True)
class VerifyCommandOptions:
    """What to verify, and where."""

    cache: str | None = None
    fraction: float = 1.0
    is_metadata_only: bool = False
    is_repairing: bool = False
    sources: tuple[str, ...] = ()
    data_dir: Path | None = None


@dataclass(frozen=True, slots=True)
class StatusOptions:
    """A server whose own verification is asked about."""

    data_dir: Path | None = None


def verify(  # noqa: PLR0913  each is an option of the command
    cache: Annotated[
        str | None, typer.Argument(help="Only what the paths of this cache need. Everything, if left out.")
    ] = None,
    *,
    fraction: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="How much of the packs and NARs to read, chosen anew each time.")
    ] = 1.0,
    metadata_only: Annotated[
        bool, typer.Option("--metadata-only", help="Read the indexes of packs and the database only.")
    ] = False,
    repair: Annotated[
        bool, typer.Option("--repair", help="Fetch what is damaged from upstreams, and from what --from names.")
    ] = False,
    from_: Annotated[
        list[str] | None, typer.Option("--from", help="The URL of a binary cache to repair from. Can be repeated.")
    ] = None,
    status: Annotated[
        bool,
        typer.Option("--status", help="Only tell how far the server's own verification is, and what damage hides."),
    ] = False,
    data_dir: FolderOption = None,
    quiet: QuietFlag = False,
    json: JsonFlag = False,
) -> None:
    """Read back what a server keeps, and tell what is damaged. The server may run meanwhile.

    Damaged chunks are quarantined: the next push of a path that needs them brings them again. Paths that cannot be
    read whole are hidden, with all that refers to them, and come back when they are healed.

    Leaves with code 1 if anything is wrong, or, with --repair, if anything is so afterwards; with --status, if damage
    hides anything.
    """
    if from_ and not repair:
        raise typer.BadParameter("--from goes with --repair")
    if status:
        if cache is not None or fraction != 1.0 or metadata_only or repair:
            raise typer.BadParameter("--status goes with --data-dir, --json and --quiet only")
        carry_out(run_status, StatusOptions(data_dir), Printer(is_json=json, is_quiet=quiet))
        return
    options = VerifyCommandOptions(cache, fraction, metadata_only, repair, tuple(from_ or ()), data_dir)
    carry_out(run, options, Printer(is_json=json, is_quiet=quiet))


async def run(options: VerifyCommandOptions, services: Services, printer: Printer) -> None:
    """Verify, show how it goes, and print what was found."""
    from icehouse.services.verify import Verifier, VerifyOptions, VerifyProgress

    del services
    progress = VerifyProgress()
    with open_folder(options.data_dir) as opened:
        verifier = Verifier(opened.database, opened.blobs, opened.workers, clock)
        chosen = VerifyOptions(
            cache=options.cache,
            fraction=options.fraction,
            salt=secrets.token_bytes(16),
            is_metadata_only=options.is_metadata_only,
        )
        async with shown(lambda: _describe(progress), printer, lambda: _fraction(progress)):
            report = await verifier.verify(chosen, progress)
        repaired = await _repair(opened, options) if options.is_repairing else None
        if repaired is not None and repaired.healed:
            left = (await verifier.verify(chosen, VerifyProgress())).finding_count
        else:
            left = report.finding_count
    if repaired is None:
        printer.result(render_report(report), report)
    else:
        text = f"{render_report(report)}\n{render_repair(repaired)}"
        printer.result(text, {"verification": report, "repair": repaired, "left": left})
    if left:
        raise typer.Exit(FAILED)


async def run_status(options: StatusOptions, services: Services, printer: Printer) -> None:
    """Tell how far the server's own verification is."""
    from icehouse.services.verify_pass import load_status

    del services
    with open_folder(options.data_dir) as opened:
        status = await opened.database.read(load_status)
    printer.result(render_status(status), status)
    if status.hidden_count:
        raise typer.Exit(FAILED)


def render_status(status: "PassStatus") -> str:
    """Where the verification stands, for people."""
    state = status.state
    lines: list[str] = []
    if state is None:
        lines.append("The server has not begun to verify what it keeps.")
    elif not state.is_between:
        lines.append(
            f"Since {time_text(state.began_at)}: read {bytes_text(state.read_bytes)}, is through with "
            f"{status.phase_done} of {status.phase_total} {_PHASES[state.phase]}, {_findings(state.findings)}."
        )
    if state is not None and state.completed_at is not None:
        lines.append(
            f"Was last through with everything {time_text(state.completed_at)}: {_findings(state.last_findings or 0)}, "
            f"{bytes_text(state.last_read_bytes or 0)} read since {time_text(state.last_began_at)}."
        )
    lines.append(f"Damage hides {status.hidden_count} path{'' if status.hidden_count == 1 else 's'} now.")
    lines += [f"  {place}: {reason}" for place, reason in status.hidden.items()]
    if status.hidden_count > len(status.hidden):
        lines.append(f"  and {status.hidden_count - len(status.hidden)} more")
    return "\n".join(lines)


def _findings(count: int) -> str:
    return "all is well" if not count else f"{count} finding{'' if count == 1 else 's'}"


async def _repair(opened: OpenFolder, options: VerifyCommandOptions) -> "RepairReport":
    from icehouse.client.binary_cache import BinaryCache, binary_caches
    from icehouse.services.nars import NarRegistry
    from icehouse.services.recent_chunks import RecentChunks
    from icehouse.services.repair import Repair

    nars = NarRegistry(opened.database, opened.blobs, opened.workers, RecentChunks(), clock)
    try:
        async with binary_caches() as client:
            repairing = Repair(
                opened.database, opened.blobs, opened.workers, nars, clock, lambda url: BinaryCache(client, url)
            )
            return await repairing.repair(options.cache, options.sources)
    finally:
        await nars.close()


def render_repair(report: "RepairReport") -> str:
    """What was repaired, for people."""
    lines = [f"repaired: {place}, from {url}" for place, url in report.healed.items()]
    lines += [f"not repaired: {place}: {reason}" for place, reason in report.failed.items()]
    lines += [f"visible again: {place}" for place in report.restored]
    return "\n".join([*lines, f"Repaired {len(report.healed)} of {len(report.healed) + len(report.failed)} paths."])


def render_report(report: "VerifyReport") -> str:
    """What was found, for people."""
    lines: list[str] = []
    for finding in report.findings:
        lines.append(f"{finding.fault.value}: {finding.place}: {finding.detail}")
        lines += [f"  hits {place}" for place in finding.paths[:_SHOWN_PATHS]]
        if len(finding.paths) > _SHOWN_PATHS:
            lines.append(f"  and {len(finding.paths) - _SHOWN_PATHS} more")
    if report.finding_count > len(report.findings):
        lines.append(f"and {report.finding_count - len(report.findings)} more findings")
    lines += [f"hidden: {place}" for place in report.hidden]
    lines += [f"hidden: {place}, which reaches {reached}" for place, reached in report.hidden_referrers.items()]
    lines += [f"visible again: {place}" for place in report.restored]
    looked = (
        f"{report.packs} packs ({bytes_text(report.pack_bytes)} read), {report.nars} NARs "
        f"({bytes_text(report.nar_bytes)}), {report.paths} paths"
    )
    return "\n".join([*lines, f"Verified {looked}: {_findings(report.finding_count)}."])


def _fraction(progress: "VerifyProgress") -> float | None:
    total = progress.packs_total + progress.nars_total
    return (progress.packs + progress.nars) / total if total else None


def _describe(progress: "VerifyProgress") -> str:
    return (
        f"{progress.packs} of {progress.packs_total} packs ({bytes_text(progress.pack_bytes)}), "
        f"{progress.nars} of {progress.nars_total} NARs ({bytes_text(progress.nar_bytes)}), {progress.paths} paths"
    )

"""``icehouse pin``, ``pins``, ``resolve`` and ``unpin``: names that keep store paths."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from icehouse.cli.cache_argument import CacheArgument
from icehouse.cli.completion import complete_pins
from icehouse.cli.path import find_path
from icehouse.cli.printer import Printer, time_text
from icehouse.cli.services import JsonFlag, QuietFlag, Services, carry_out
from icehouse.errors import NotFound

if TYPE_CHECKING:
    from icehouse.api.pins import PinView, RevisionView

NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="The pin's name.", autocompletion=complete_pins)]


@dataclass(frozen=True, slots=True)
class PinOptions:
    """A path, and the name to pin it by."""

    cache: str
    name: str
    path: str
    artifacts: tuple[str, ...] = ()
    keep_days: int | None = None
    keep_revisions: int | None = None
    keep_forever: bool = False


def pin(  # noqa: PLR0913  each is an option of the command
    cache: CacheArgument,
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME",
            help="1 to 100 letters, digits, dots, underscores and dashes; no dot first.",
            autocompletion=complete_pins,
        ),
    ],
    path: Annotated[
        str,
        typer.Argument(
            metavar="PATH", help="A store path, its base name or hash part, or a symlink to one such as ./result."
        ),
    ],
    *,
    artifact: Annotated[
        list[str] | None,
        typer.Option(
            help="A file or folder inside the path, such as bin/app, to be had by the pin's name. Can be repeated."
        ),
    ] = None,
    keep_days: Annotated[int | None, typer.Option(min=1, help="Keep revisions younger than so many days.")] = None,
    keep_revisions: Annotated[int | None, typer.Option(min=1, help="Keep so many of the last revisions.")] = None,
    keep_forever: Annotated[bool, typer.Option("--keep-forever", help="Keep all revisions.")] = False,
    quiet: QuietFlag = False,
    json: JsonFlag = False,
) -> None:
    """Pin a path of a cache by a name: it is kept, with its closure, whatever the cache's retention says.

    Another path under the same name makes the next revision of the pin. The newest always stays; of the others a pin
    keeps what it was last told to, or all. The path must have been pushed.
    """
    if [keep_days is not None, keep_revisions is not None, keep_forever].count(True) > 1:
        raise typer.BadParameter("give one of --keep-days, --keep-revisions and --keep-forever")
    options = PinOptions(cache, name, path, tuple(artifact or ()), keep_days, keep_revisions, keep_forever)
    carry_out(run_pin, options, Printer(is_json=json, is_quiet=quiet))


async def run_pin(options: PinOptions, services: Services, printer: Printer) -> None:
    """Pin a path, and print what the pin is now."""
    from icehouse.api.pins import PinPut

    address = services.find_cache(options.cache)
    body = PinPut(
        store_path=find_path(options.path, services),
        artifacts=list(options.artifacts),
        keep_days=options.keep_days,
        keep_revisions=options.keep_revisions,
        keep_forever=options.keep_forever,
    )
    async with services.server(address.login) as server:
        answer = await server.put_pin(address.name, options.name, body)
    newest = answer.pin.newest
    text = (
        f"Pinned {newest.store_path} as {options.name}, revision {newest.number}"
        if answer.is_new_revision
        else f"{options.name} was on {newest.store_path} already, which stays revision {newest.number}"
    )
    printer.result(f"{text}; keeps {_rule(answer.pin)}.", answer)


@dataclass(frozen=True, slots=True)
class PinsOptions:
    """The pins of a cache, or one of them."""

    cache: str
    name: str | None = None


def pins(
    cache: CacheArgument,
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="NAME", help="Show this pin, with its revisions and artifacts.", autocompletion=complete_pins
        ),
    ] = None,
    *,
    quiet: QuietFlag = False,
    json: JsonFlag = False,
) -> None:
    """List the pins of a cache, or show one with its revisions."""
    carry_out(run_pins, PinsOptions(cache, name), Printer(is_json=json, is_quiet=quiet))


async def run_pins(options: PinsOptions, services: Services, printer: Printer) -> None:
    """List pins, or show one."""
    address = services.find_cache(options.cache)
    async with services.server(address.login) as server:
        if options.name is None:
            listed = await server.list_pins(address.name)
            rows = [
                (pin.name, str(pin.newest.number), time_text(pin.newest.created_at), _rule(pin), _path(pin.newest))
                for pin in listed
            ]
            printer.table(("NAME", "REVISION", "PINNED", "KEEPS", "PATH"), rows, listed)
            return
        details = await server.show_pin(address.name, options.name)
    lines = [
        f"name         {details.name}",
        f"path         {details.full_path}",
        *(f"artifact     {artifact}" for artifact in details.newest.artifacts),
        f"keeps        {_rule(details)}",
    ]
    printer.result("\n".join(lines), details)
    if not printer.is_json:
        rows = [
            (str(each.number), time_text(each.created_at), each.created_by or "", _path(each))
            for each in details.revisions
        ]
        printer.table(("REVISION", "PINNED", "BY", "PATH"), rows, details)


@dataclass(frozen=True, slots=True)
class NameOptions:
    """One pin of a cache."""

    cache: str
    name: str


def resolve(cache: CacheArgument, name: NameArgument, *, quiet: QuietFlag = False, json: JsonFlag = False) -> None:
    """Print the whole store path that a pin stands for."""
    carry_out(run_resolve, NameOptions(cache, name), Printer(is_json=json, is_quiet=quiet))


async def run_resolve(options: NameOptions, services: Services, printer: Printer) -> None:
    """Print a pin's path.

    Raises:
        NotFound: there is no such pin, or its path cannot be pulled.
    """
    address = services.find_cache(options.cache)
    async with services.server(address.login) as server:
        found = await server.get_pin(address.name, options.name)
    if not found.newest.is_visible:
        raise NotFound(f"{found.newest.store_path}, which pin {options.name!r} stands for, is in the trash")
    newest = found.newest
    data = {"full_path": found.full_path, "store_path": newest.store_path, "number": newest.number}
    printer.result(found.full_path, data)


def unpin(cache: CacheArgument, name: NameArgument, *, quiet: QuietFlag = False, json: JsonFlag = False) -> None:
    """Remove a pin, with all its revisions. Their paths stay until the cache's retention lets go of them."""
    carry_out(run_unpin, NameOptions(cache, name), Printer(is_json=json, is_quiet=quiet))


async def run_unpin(options: NameOptions, services: Services, printer: Printer) -> None:
    """Remove a pin."""
    address = services.find_cache(options.cache)
    async with services.server(address.login) as server:
        await server.delete_pin(address.name, options.name)
    text = f"Unpinned {options.name}; its paths stay until the retention of {address.name} lets go of them."
    printer.result(text, {"unpinned": options.name})


def _rule(pin: "PinView") -> str:
    from icehouse.rules.pins import describe_keep

    return describe_keep(days=pin.keep_days, revisions=pin.keep_revisions)


def _path(revision: "RevisionView") -> str:
    remarks = ["in the trash"] * (not revision.is_visible) + ["kept no longer"] * (not revision.is_kept)
    return f"{revision.store_path} ({', '.join(remarks)})" if remarks else revision.store_path

"""``icehouse path``: what a cache knows of a path."""

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from icehouse.cli.cache import CacheArgument
from icehouse.cli.exits import EXIT_CODES_HELP
from icehouse.cli.printer import Printer, bytes_text, time_text
from icehouse.cli.services import JsonFlag, QuietFlag, Services, carry_out
from icehouse.errors import NotFound

if TYPE_CHECKING:
    from icehouse.nix.store_paths import HashPart

app = typer.Typer(
    help="See what a cache knows of store paths.", no_args_is_help=True, add_completion=False, rich_markup_mode=None
)


@app.callback()
def _path() -> None:
    """See what a cache knows of store paths."""


@dataclass(frozen=True, slots=True)
class InfoOptions:
    """A path in a cache."""

    cache: str
    path: str


@app.command(epilog=EXIT_CODES_HELP)
def info(
    cache: CacheArgument,
    path: Annotated[
        str,
        typer.Argument(
            metavar="PATH", help="A store path, its base name or hash part, or a symlink to one such as ./result."
        ),
    ],
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
    ]
    printer.result("\n".join(lines), view)


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

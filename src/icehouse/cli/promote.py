"""``icehouse promote``: publish in one cache what another one has, such as what a pull request built."""

from dataclasses import dataclass
from typing import Annotated

import typer

from icehouse.cli.cache_argument import CacheArgument
from icehouse.cli.path import PathArgument, find_path
from icehouse.cli.printer import Printer
from icehouse.cli.services import JsonFlag, QuietFlag, Services, carry_out
from icehouse.errors import Conflict


@dataclass(frozen=True, slots=True)
class PromoteOptions:
    """The cache that gets a path, the one that has it, and the path."""

    cache: str
    source: str
    path: str


def promote(
    cache: CacheArgument,
    source: Annotated[str, typer.Argument(metavar="FROM", help="The name of the cache that has the path.")],
    path: PathArgument,
    *,
    quiet: QuietFlag = False,
    json: JsonFlag = False,
) -> None:
    """Publish a path of another cache, with all that it reaches, without sending bytes again."""
    carry_out(run_promote, PromoteOptions(cache, source, path), Printer(is_json=json, is_quiet=quiet))


async def run_promote(options: PromoteOptions, services: Services, printer: Printer) -> None:
    """Promote, and print what became visible."""
    address = services.find_cache(options.cache)
    async with services.server(address.login) as server:
        path = find_path(options.path, services)
        while (answer := await server.promote(address.name, options.source, path)).left_nars:
            printer.message(f"Copying to {address.name}: {answer.left_nars} NARs are left.")
    if answer.refused:
        reasons = "; ".join(f"{refused.store_path}: {refused.reason}" for refused in answer.refused[:10])
        raise Conflict(f"nothing was promoted: {reasons}")
    lines = [f"promoted {name}" for name in answer.published]
    printer.result("\n".join(lines) or f"{address.name} has it already.", answer)

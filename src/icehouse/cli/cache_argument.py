"""The argument that names a cache, of many commands."""

from typing import Annotated

import typer

from icehouse.cli.completion import complete_caches

CacheArgument = Annotated[
    str,
    typer.Argument(
        metavar="CACHE",
        help="A cache's name on the logged-in server, or its whole URL.",
        autocompletion=complete_caches,
    ),
]

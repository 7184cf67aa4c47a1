"""What commands are given to work with, and how a command is carried out."""

import asyncio
import os
import sys
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO, TypeVar

import typer

from icehouse.cli.exits import INTERRUPTED, exit_code_of
from icehouse.cli.printer import VERBOSE_VARIABLE, Printer
from icehouse.errors import IcehouseError

if TYPE_CHECKING:
    from icehouse.client.logins import CacheAddress, Login, Logins
    from icehouse.client.server import Server

JsonFlag = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
QuietFlag = Annotated[bool, typer.Option("--quiet", "-q", help="Print results and errors only.")]

Options = TypeVar("Options")


@dataclass(frozen=True, slots=True)
class Services:
    """The world around a command: the environment, the user's logins, and servers."""

    environment: Mapping[str, str] = field(default_factory=lambda: os.environ)
    stdin: TextIO = field(default_factory=lambda: sys.stdin)
    is_quiet: bool = False
    """Whether nobody wants to know how things go."""

    @property
    def config_home(self) -> Path:
        """The folder of the user's configurations."""
        from icehouse.client.private_files import config_home

        return config_home(self.environment)

    @property
    def logins_file(self) -> Path:
        """Where logins are kept."""
        return self.config_home / "icehouse" / "config.toml"

    def logins(self) -> "Logins":
        """The user's logins."""
        from icehouse.client.logins import Logins

        return Logins.read(self.logins_file)

    def find_cache(self, text: str) -> "CacheAddress":
        """The cache that the user means: a name on the logged-in server, or a whole URL."""
        from icehouse.client.logins import find_cache_address

        return find_cache_address(text, self.logins(), self.environment)

    def default_login(self) -> "Login":
        """The server that the user is logged in to."""
        from icehouse.client.logins import default_login

        return default_login(self.logins(), self.environment)

    @asynccontextmanager
    async def server(self, login: "Login", *, bytes_per_second: int | None = None) -> AsyncGenerator["Server"]:
        """A server to talk to, and how fast it is sent to at most."""
        from icehouse.client.server import connect

        tell = _tell if self.environment.get(VERBOSE_VARIABLE) else None
        warn = None if self.is_quiet else _tell
        async with connect(login, bytes_per_second=bytes_per_second, tell=tell, warn=warn) as server:
            yield server


def _tell(line: str) -> None:
    sys.stderr.write(f"icehouse: {line}\n")
    sys.stderr.flush()


def carry_out(
    run: Callable[[Options, Services, Printer], Coroutine[Any, Any, None]], options: Options, printer: Printer
) -> None:
    """Run a command to its end; leave with the exit code of what went wrong.

    Raises:
        typer.Exit: something went wrong, and was told.
    """
    try:
        asyncio.run(run(options, Services(is_quiet=printer.is_quiet), printer))
    except IcehouseError as error:
        printer.error(error)
        raise typer.Exit(exit_code_of(error)) from error
    except KeyboardInterrupt as error:
        printer.message("icehouse: interrupted")
        raise typer.Exit(INTERRUPTED) from error
    except BrokenPipeError as error:
        # Whoever read the result has seen enough; nothing may be written at exit either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(1) from error

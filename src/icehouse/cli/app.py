"""All commands under one name. A command's module is imported when its help or the command itself is asked for."""

from importlib import import_module
from typing import Annotated, Any, ClassVar, Final

import typer
from typer.core import TyperGroup

from icehouse.cli.exits import EXIT_CODES_HELP

_COMMANDS: Final = {
    "serve": "icehouse.cli.serve",
    "login": "icehouse.cli.login",
    "cache": "icehouse.cli.cache",
    "token": "icehouse.cli.token",
    "use": "icehouse.cli.use",
    "push": "icehouse.cli.push",
    "path": "icehouse.cli.path",
}
"""Each module has a `typer.Typer` called ``app``, with one command or with several."""


class LazyGroup(TyperGroup):
    """A group that finds its commands in `_COMMANDS`."""

    modules: ClassVar[dict[str, str]] = _COMMANDS

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ANN401, ARG002  typer's own type is private
        """Their names, in the order in which people meet them."""
        return list(self.modules)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:  # noqa: ANN401, ARG002  as above
        """A command by its name; None if there is no such command."""
        module = self.modules.get(cmd_name)
        if module is None:
            return None
        command = typer.main.get_command(import_module(module).app)
        command.name = cmd_name
        return command


def make_app() -> typer.Typer:
    """The whole command line."""
    app = typer.Typer(
        cls=LazyGroup,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"]},
        epilog=EXIT_CODES_HELP,
    )
    app.callback()(_icehouse)
    return app


def _icehouse(
    *,
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    """Icehouse, a self-hosted binary cache for Nix."""
    if version:
        from importlib.metadata import version as version_of

        typer.echo(f"icehouse {version_of('icehouse')}")
        raise typer.Exit

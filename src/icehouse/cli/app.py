"""All commands under one name. A command's module is imported when its help or the command itself is asked for."""

import os
from importlib import import_module
from typing import Annotated, Any, ClassVar, Final

import typer
from typer.core import TyperGroup, TyperOption

from icehouse import __version__
from icehouse.cli.exits import EXIT_CODES_HELP
from icehouse.cli.printer import VERBOSE_VARIABLE

_COMMANDS: Final = {
    "serve": ("icehouse.cli.serve", "serve"),
    "login": ("icehouse.cli.login", "app"),
    "cache": ("icehouse.cli.cache", "app"),
    "token": ("icehouse.cli.token", "app"),
    "person": ("icehouse.cli.person", "app"),
    "trust": ("icehouse.cli.trust", "app"),
    "key": ("icehouse.cli.key", "app"),
    "use": ("icehouse.cli.use", "app"),
    "remove": ("icehouse.cli.remove", "app"),
    "push": ("icehouse.cli.push", "app"),
    "watch-exec": ("icehouse.cli.watch", "watch_exec"),
    "watch-store": ("icehouse.cli.watch", "watch_store"),
    "daemon": ("icehouse.cli.daemon", "app"),
    "hook": ("icehouse.cli.hook", "app"),
    "import": ("icehouse.cli.import_", "app"),
    "export": ("icehouse.cli.export", "app"),
    "pin": ("icehouse.cli.pin", "pin"),
    "pins": ("icehouse.cli.pin", "pins"),
    "resolve": ("icehouse.cli.pin", "resolve"),
    "unpin": ("icehouse.cli.pin", "unpin"),
    "path": ("icehouse.cli.path", "app"),
    "promote": ("icehouse.cli.promote", "promote"),
    "revoke": ("icehouse.cli.revoke", "revoke"),
    "doctor": ("icehouse.cli.doctor", "doctor"),
    "version": ("icehouse.cli.version", "version"),
    "gc": ("icehouse.cli.gc", "gc"),
    "audit": ("icehouse.cli.audit", "audit"),
    "secret": ("icehouse.cli.secret", "app"),
    "verify": ("icehouse.cli.verify", "verify"),
    "backup": ("icehouse.cli.backup", "backup"),
    "restore": ("icehouse.cli.backup", "restore"),
    "rebuild": ("icehouse.cli.backup", "rebuild"),
    "completion": ("icehouse.cli.completion", "completion"),
    "man": ("icehouse.cli.man", "man"),
}
"""For each command its module, and what is in it: a `typer.Typer`, or a function that is one command."""


class LazyGroup(TyperGroup):
    """A group that finds its commands in `_COMMANDS`."""

    places: ClassVar[dict[str, tuple[str, str]]] = _COMMANDS

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ANN401, ARG002  typer's own type is private
        """Their names, in the order in which people meet them."""
        return list(self.places)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:  # noqa: ANN401, ARG002  as above
        """A command by its name; None if there is no such command."""
        if cmd_name not in self.places:
            return None
        module, attribute = self.places[cmd_name]
        found: Any = getattr(import_module(module), attribute)
        if not isinstance(found, typer.Typer):
            app = typer.Typer(add_completion=False, rich_markup_mode=None)
            app.command(epilog=EXIT_CODES_HELP)(found)
            found = app
        command = typer.main.get_command(found)
        command.name = cmd_name
        _add_verbose(command)
        _tidy_help(command)
        return command


def _add_verbose(command: Any) -> None:  # noqa: ANN401  as above
    """Give a command, or those of a group, ``--verbose``; not those that talk to nobody, which have no ``--quiet``."""
    for name in command.list_commands(None) if hasattr(command, "list_commands") else ():
        _add_verbose(command.get_command(None, name))
    if any(parameter.name == "quiet" for parameter in command.params):
        option = TyperOption(
            param_decls=["--verbose", "-v"],
            is_flag=True,
            is_eager=True,
            expose_value=False,
            callback=_be_verbose,
            help="Tell of each request, with its id, which the server's log has too.",
        )
        command.params.append(option)


def _be_verbose(ctx: Any, parameter: Any, value: Any) -> None:  # noqa: ANN401  as above
    del ctx, parameter
    if value:
        os.environ[VERBOSE_VARIABLE] = "1"


def _tidy_help(command: Any) -> None:  # noqa: ANN401  typer's own type is private
    """Let the help name values by the last word of their option, and show defaults as they are typed.

    Typer shows Python's types, ``<list[str]>``, and puts a default that is given as a text in parentheses.
    """
    for name in command.list_commands(None) if hasattr(command, "list_commands") else ():
        _tidy_help(command.get_command(None, name))
    for parameter in command.params:
        if isinstance(parameter.show_default, str):
            parameter.help = f"{parameter.help}  [default: {parameter.show_default}]"
            parameter.show_default = False
        word = parameter.name.rpartition("_")[2].upper()
        if parameter.param_type_name == "argument":
            parameter.metavar = (parameter.metavar or word) + ("" if parameter.nargs == 1 else "...")
            parameter.display_type_rich = _no_type
        elif parameter.metavar is None and hasattr(parameter.type, "choices"):
            parameter.metavar = "|".join(parameter.type.choices)
        elif parameter.metavar is None and not parameter.is_flag:
            parameter.metavar = word


def _no_type(ctx: Any) -> str:  # noqa: ANN401  as above
    del ctx
    return ""


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
        typer.echo(f"icehouse {__version__}")
        raise typer.Exit

"""``icehouse completion``: what a shell needs to complete commands, options, and names of caches and pins."""

import asyncio
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from icehouse.cli.services import Services


def completion(
    shell: Annotated[Literal["bash", "zsh", "fish"], typer.Argument(metavar="bash|zsh|fish", help="The shell.")],
) -> None:
    """Print a script that completes commands, options, and the names of caches and pins.

    For bash, put source <(icehouse completion bash) into ~/.bashrc. For zsh, the same with zsh into ~/.zshrc, after
    compinit. For fish: icehouse completion fish > ~/.config/fish/completions/icehouse.fish
    """
    # typer's, which fills in the shell's own way of asking.
    from typer._completion_shared import get_completion_script

    typer.echo(get_completion_script(prog_name="icehouse", complete_var="_ICEHOUSE_COMPLETE", shell=shell))


def complete_caches(incomplete: str) -> list[str]:
    """The names of caches that begin with what was typed; none, if the server does not say."""
    try:
        return [name for name in asyncio.run(_find_caches(_services())) if name.startswith(incomplete)]
    except Exception:  # noqa: BLE001  whatever it is, a traceback amid what a person types helps nobody
        return []


def complete_pins(ctx: typer.Context, incomplete: str) -> list[str]:
    """The names of the pins, in the cache that was typed before, that begin with what was typed."""
    try:
        return [
            name
            for name in asyncio.run(_find_pins(_services(), str(ctx.params["cache"])))
            if name.startswith(incomplete)
        ]
    except Exception:  # noqa: BLE001  as above
        return []


def _services() -> "Services":
    from icehouse.cli.services import Services

    return Services()


async def _find_caches(services: "Services") -> list[str]:
    from icehouse.client.names import find_cache_names

    return await find_cache_names(services.default_login())


async def _find_pins(services: "Services", cache: str) -> list[str]:
    from icehouse.client.names import find_pin_names

    return await find_pin_names(services.find_cache(cache))

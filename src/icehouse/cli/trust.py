"""``icehouse trust``: whose CI jobs may have tokens of a cache, without any stored secret."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Final

import typer

from icehouse.cli.cache_argument import CacheArgument
from icehouse.cli.durations import duration_text, parse_duration
from icehouse.cli.exits import EXIT_CODES_HELP
from icehouse.cli.printer import Printer
from icehouse.cli.services import JsonFlag, QuietFlag, Services, carry_out
from icehouse.errors import InvalidFormat

if TYPE_CHECKING:
    from icehouse.api.tokens import PermissionName
    from icehouse.api.trust import TrustView

app = typer.Typer(
    help="Let jobs of a CI push to a cache, and pull from it, without a stored token.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)

_GRANTABLE: Final[Mapping[str, "PermissionName"]] = {
    "pull": "pull",
    "push": "push",
    "pin": "pin",
    "delete": "delete",
    "configure": "configure",
}
"""An administrator is nobody's job: who is trusted could trust others then."""


@dataclass(frozen=True, slots=True)
class AddOptions:
    """A new rule, as it was typed."""

    cache: str
    issuer: str
    claims: tuple[str, ...]
    allow: tuple[str, ...]
    audience: str | None = None
    token_lifetime: str | None = None


@app.command(epilog=EXIT_CODES_HELP)
def add(
    cache: CacheArgument,
    *,
    issuer: Annotated[str, typer.Option(metavar="URL", help="Who vouches for the jobs: the `iss` of their tokens.")],
    claim: Annotated[
        list[str],
        typer.Option(
            metavar="NAME=GLOB",
            help="What their tokens say. Can be repeated: of one name, one must match; of several, each.",
        ),
    ],
    allow: Annotated[
        list[str],
        typer.Option("--allow", "-a", metavar="PERMISSION,…", help="What they may do: pull, push, pin, …"),
    ],
    audience: Annotated[
        str | None, typer.Option(help="Whom their tokens are for. The server's URL unless said otherwise.")
    ] = None,
    token_lifetime: Annotated[
        str | None, typer.Option(metavar="TIME", help="How long a token is valid, 15m unless said otherwise.")
    ] = None,
    quiet: QuietFlag = False,
    json: JsonFlag = False,
) -> None:
    """Trust jobs: each may exchange the identity that its CI gives it for a token of this cache, for some minutes.

    In a claim's GLOB, * stands for any letters but / and :, and ** for any.
    """
    options = AddOptions(cache, issuer, tuple(claim), tuple(allow), audience, token_lifetime)
    carry_out(run_add, options, Printer(is_json=json, is_quiet=quiet))


async def run_add(options: AddOptions, services: Services, printer: Printer) -> None:
    """Add a rule and print it."""
    from icehouse.api.trust import DEFAULT_TOKEN_SECONDS, TrustCreate

    lifetime = options.token_lifetime
    body = TrustCreate(
        issuer=options.issuer,
        claims=_parse_claims(options.claims),
        permissions=_parse_permissions(options.allow),
        audience=options.audience,
        token_seconds=DEFAULT_TOKEN_SECONDS if lifetime is None else parse_duration(lifetime),
    )
    address = services.find_cache(options.cache)
    async with services.server(address.login) as server:
        view = await server.add_trust(address.name, body)
    printer.result(f"Trust rule {view.id} of {address.name}:\n{_text(view)}", view)


@dataclass(frozen=True, slots=True)
class ListOptions:
    """The rules of a cache."""

    cache: str


@app.command("list", epilog=EXIT_CODES_HELP)
def list_(cache: CacheArgument, *, quiet: QuietFlag = False, json: JsonFlag = False) -> None:
    """List the trust rules of a cache."""
    carry_out(run_list, ListOptions(cache), Printer(is_json=json, is_quiet=quiet))


async def run_list(options: ListOptions, services: Services, printer: Printer) -> None:
    """List rules."""
    address = services.find_cache(options.cache)
    async with services.server(address.login) as server:
        views = await server.list_trust(address.name)
    rows = [
        (
            str(view.id),
            view.issuer,
            view.audience,
            " ".join(_claims(view)),
            ",".join(view.permissions),
            duration_text(view.token_seconds),
        )
        for view in views
    ]
    printer.table(("ID", "ISSUER", "AUDIENCE", "CLAIMS", "ALLOWED", "LIFETIME"), rows, views)


@dataclass(frozen=True, slots=True)
class RemoveOptions:
    """A rule to remove."""

    cache: str
    rule_id: int


@app.command(epilog=EXIT_CODES_HELP)
def remove(
    cache: CacheArgument,
    rule_id: Annotated[int, typer.Argument(metavar="ID", help="Its number, from `icehouse trust list`.")],
    *,
    quiet: QuietFlag = False,
    json: JsonFlag = False,
) -> None:
    """Remove a trust rule, and end the tokens that jobs of its issuer have for this cache."""
    carry_out(run_remove, RemoveOptions(cache, rule_id), Printer(is_json=json, is_quiet=quiet))


async def run_remove(options: RemoveOptions, services: Services, printer: Printer) -> None:
    """Remove a rule."""
    address = services.find_cache(options.cache)
    async with services.server(address.login) as server:
        await server.remove_trust(address.name, options.rule_id)
    printer.result(f"Removed trust rule {options.rule_id} of {address.name}.", {"removed": options.rule_id})


def _parse_claims(texts: tuple[str, ...]) -> dict[str, list[str]]:
    claims: dict[str, list[str]] = {}
    for text in texts:
        name, equals, glob = text.partition("=")
        if not equals:
            raise InvalidFormat(f"--claim {text!r}: expected NAME=GLOB, such as repository=org/*")
        claims.setdefault(name, []).append(glob)
    return claims


def _parse_permissions(texts: tuple[str, ...]) -> list["PermissionName"]:
    found: dict[PermissionName, None] = {}
    for word in ",".join(texts).split(","):
        chosen = _GRANTABLE.get(word.strip())
        if chosen is None:
            raise InvalidFormat(f"--allow {word.strip()!r}: expected one or more of {', '.join(_GRANTABLE)}")
        found[chosen] = None
    return list(found)


def _claims(view: "TrustView") -> list[str]:
    return [f"{name}={glob}" for name, globs in view.claims.items() for glob in globs]


def _text(view: "TrustView") -> str:
    lines = [
        f"issuer       {view.issuer}",
        f"audience     {view.audience}",
        *(f"claim        {claim}" for claim in _claims(view)),
        f"allowed      {', '.join(view.permissions)}",
        f"tokens       valid for {duration_text(view.token_seconds)}",
    ]
    return "\n".join(lines)

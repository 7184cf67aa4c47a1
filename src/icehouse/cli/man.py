"""``icehouse man``: manual pages, made from the help."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from icehouse import __version__
from icehouse.errors import NotFound

_SECTION: Final = 1
_PROGRAM: Final = "icehouse"
_WHOLE: Final = 1000


@dataclass(frozen=True, slots=True)
class Page:
    """The manual page of one command."""

    words: tuple[str, ...]
    """All its words: ``icehouse``, ``cache``, ``create``."""
    text: str
    """Roff, in the macros of man(7)."""

    @property
    def file_name(self) -> str:
        """As man finds it."""
        return f"{'-'.join(self.words)}.{_SECTION}"


def man(
    words: Annotated[
        list[str] | None, typer.Argument(metavar="COMMAND", help="The words of a command, such as cache create.")
    ] = None,
    *,
    to: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Write the pages of all commands into this folder instead.")
    ] = None,
) -> None:
    """Print the manual page of a command.

    To read it: icehouse man push | man -l -

    With --to, pages can be installed where man looks for them: in a folder man1.
    """
    pages = {page.words[1:]: page for page in make_pages()}
    if to is not None:
        to.mkdir(parents=True, exist_ok=True)
        for page in pages.values():
            (to / page.file_name).write_text(page.text, encoding="utf-8")
        return
    page = pages.get(tuple(words or ()))
    if page is None:
        raise NotFound(f"there is no command icehouse {' '.join(words or ())}; `icehouse --help` lists them")
    typer.echo(page.text, nl=False)


def make_pages() -> Iterator[Page]:
    """The pages of the whole command line, that of ``icehouse`` itself first."""
    from icehouse.cli.app import make_app

    yield from _walk((_PROGRAM,), typer.main.get_command(make_app()), None)


def _walk(words: tuple[str, ...], command: Any, parent: Any) -> Iterator[Page]:  # noqa: ANN401  typer's own types are private
    context = command.context_class(command, info_name=words[-1], parent=parent)
    names: list[str] = command.list_commands(context) if hasattr(command, "list_commands") else []
    below = [(name, command.get_command(context, name)) for name in names]
    yield Page(words, _render(words, command, context, below))
    for name, each in below:
        yield from _walk((*words, name), each, context)


def _render(words: tuple[str, ...], command: Any, context: Any, below: Sequence[tuple[str, Any]]) -> str:  # noqa: ANN401  as above
    title = "-".join(words)
    paragraphs = [" ".join(part.split()) for part in (command.help or "").split("\n\n")]
    summary = paragraphs[0].partition(". ")[0].rstrip(".")
    lines = [
        f'.TH "{_escaped(title.upper())}" {_SECTION} "" "Icehouse {_escaped(__version__)}"',
        ".SH NAME",
        f"{_escaped(title)} \\- {_escaped(summary)}",
        ".SH SYNOPSIS",
        f".B {_escaped(' '.join(words))}",
        _escaped(" ".join(command.collect_usage_pieces(context))),
        ".SH DESCRIPTION",
        "\n.PP\n".join(map(_escaped, paragraphs)),
    ]
    parameters = command.get_params(context)
    for heading, kind in (("ARGUMENTS", "argument"), ("OPTIONS", "option")):
        records = [each.get_help_record(context) for each in parameters if each.param_type_name == kind]
        lines += _list(heading, [record for record in records if record is not None])
    lines += _list("COMMANDS", [(name, each.get_short_help_str(_WHOLE)) for name, each in below])
    if command.epilog:
        lines += [".SH EXIT STATUS", _escaped(command.epilog.removeprefix("Exit codes: "))]
    others = ["-".join((*words, name)) for name, _ in below] or ["-".join(words[:-1])]
    lines += [".SH SEE ALSO", ",\n".join(f".BR {_escaped(other)} ({_SECTION})" for other in others)]
    return "\n".join(lines) + "\n"


def _list(heading: str, records: Sequence[tuple[str, str]]) -> list[str]:
    if not records:
        return []
    lines = [f".SH {heading}"]
    for term, text in records:
        lines += [".TP", f".B {_escaped(term)}", _escaped(" ".join(text.split()))]
    return lines


_SPECIAL: Final = {"\\": "\\e", "-": "\\-", '"': "\\(dq", "'": "\\(aq", "^": "\\(ha", "~": "\\(ti", "`": "\\(ga"}


def _escaped(text: str) -> str:
    """Text that roff prints as it is: marks that can be copied, and no line that begins as a request does."""
    marks = (_SPECIAL.get(mark, mark if mark.isascii() else f"\\[u{ord(mark):04X}]") for mark in text)
    return re.sub(r"^\.", r"\\&.", "".join(marks))

"""One module per command."""

import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> None:
    """Carry out the command that *arguments* (by default those of the process) name, and leave with its exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given == ["--version"]:
        from importlib.metadata import version

        sys.stdout.write(f"icehouse {version('icehouse')}\n")
        return
    from icehouse.cli.app import make_app

    make_app()(given, prog_name="icehouse")

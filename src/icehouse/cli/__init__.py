"""One module per command."""

import contextlib
import gc
import os
import sys
from collections.abc import Sequence
from typing import Final

from icehouse import __version__

COMPLETION_VARIABLE: Final = "_ICEHOUSE_COMPLETE"
"""In the environment of a process that is asked for completions, as typer's scripts for shells ask."""

_INTERRUPTED: Final = 130  # as in `exits`, which is not imported yet when it is needed

_COLLECT_AFTER: Final = 20_000
"""New objects after which cycles among them are looked for. Commands make few cycles. Looking after each 700 objects,
as Python does by itself, took 7 of the 110 ms in which the modules of a push are imported, and 2.6 % of a rebuild."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Carry out the command that *arguments* (by default those of the process) name, and leave with its exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given == ["--version"]:
        sys.stdout.write(f"icehouse {__version__}\n")
        return
    if COMPLETION_VARIABLE in os.environ:  # a shell asks, amid what a person types
        with contextlib.suppress(Exception), open(os.devnull, "w") as nothing, contextlib.redirect_stderr(nothing):  # noqa: PTH123
            _carry_out(given)
        _leave(0)
    try:
        _carry_out(given)
    except KeyboardInterrupt:  # while modules are imported; a command under way has its own way to end
        sys.stderr.write("icehouse: interrupted\n")
        _leave(_INTERRUPTED)


def _carry_out(arguments: Sequence[str]) -> None:
    gc.set_threshold(_COLLECT_AFTER)
    from icehouse.cli.app import make_app
    from icehouse.cli.exits import FAILED, exit_code_of
    from icehouse.cli.printer import Printer
    from icehouse.errors import IcehouseError

    try:
        make_app()(arguments, prog_name="icehouse")
    except IcehouseError as error:
        Printer().error(error)
        _leave(exit_code_of(error))
    except SystemExit as leaving:
        _leave(leaving.code if isinstance(leaving.code, int) else FAILED if leaving.code else 0)


def _leave(code: int) -> None:
    """End this process.

    A thread of the HTTP client may still be letting go of Python objects then, and aborts if the interpreter
    is half gone (seen in a quarter of runs). So with such a thread the interpreter is not taken down.
    """
    if "pyreqwest" in sys.modules:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)

"""The process in which libFuzzer drives a target: ``python -m tests.fuzz.guided_child TARGET OPTIONS``.

Nothing of ours is imported before the instrumentation is on, so `tests.fuzz.guided` is another program.
"""

from __future__ import annotations

import contextlib
import importlib
import shlex
import sys
from collections.abc import Callable
from typing import Protocol, cast


class _Atheris(Protocol):
    """What is used of `atheris`, which is fetched for the campaign and so has no types here."""

    def instrument_imports(self, include: list[str]) -> contextlib.AbstractContextManager[None]: ...
    def Setup(self, argv: list[str], target: Callable[[bytes], None]) -> None: ...  # noqa: N802
    def Fuzz(self) -> None: ...  # noqa: N802


def main(target: str, options: list[str]) -> None:
    """Never comes back: libFuzzer ends the process."""
    library = cast("_Atheris", importlib.import_module("atheris"))
    with library.instrument_imports(include=["icehouse.nix", "icehouse.rules"]):
        run_target = cast("Callable[[str, bytes], None]", importlib.import_module("tests.fuzz.targets").run_target)
    # libFuzzer starts itself again to merge, by a shell.
    itself = f"{shlex.quote(sys.executable)} -m tests.fuzz.guided_child {target}"
    library.Setup([itself, *options], lambda data: run_target(target, data))
    library.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])

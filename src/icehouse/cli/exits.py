"""The one table from errors to exit codes."""

from typing import Final

from icehouse.errors import Denied, IcehouseError, NotFound, Unauthenticated, Unavailable

FAILED: Final = 1
WRONG_USAGE: Final = 2
INTERRUPTED: Final = 130

_CODES: Final[tuple[tuple[type[IcehouseError], int], ...]] = (
    (Unauthenticated, 3),
    (Denied, 3),
    (NotFound, 4),
    (Unavailable, 5),
)

EXIT_CODES_HELP: Final = (
    "Exit codes: 0 done, 1 failed, 2 wrong usage, 3 not permitted, 4 not found, 5 server unreachable, 130 interrupted."
)


def exit_code_of(error: IcehouseError) -> int:
    """What a program that fails with *error* leaves with."""
    return next((code for kind, code in _CODES if isinstance(error, kind)), FAILED)

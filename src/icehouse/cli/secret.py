"""``icehouse secret``: the secret that a server's signing keys are encrypted with."""

import secrets
from dataclasses import dataclass
from pathlib import Path

import typer

from icehouse.cli.data_folder import FolderOption, clock, open_folder
from icehouse.cli.exits import EXIT_CODES_HELP
from icehouse.cli.printer import Printer
from icehouse.cli.services import JsonFlag, QuietFlag, Services, carry_out

app = typer.Typer(
    help="Change the secret that signing keys are encrypted with.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)


@app.callback()
def secret() -> None:
    """Change the secret that signing keys are encrypted with."""


@dataclass(frozen=True, slots=True)
class RotateOptions:
    """A server's data folder."""

    data_dir: Path | None = None


@app.command(epilog=EXIT_CODES_HELP)
def rotate(*, data_dir: FolderOption = None, quiet: QuietFlag = False, json: JsonFlag = False) -> None:
    """Encrypt the signing keys with a new secret, while the server does not run. The old one is kept as secret.old."""
    carry_out(run_rotate, RotateOptions(data_dir), Printer(is_json=json, is_quiet=quiet))


async def run_rotate(options: RotateOptions, services: Services, printer: Printer) -> None:
    """Rotate the secret."""
    from icehouse.db.files import file_errors, locked
    from icehouse.services.secret_rotation import old_secret, rotate_secret

    del services
    with open_folder(options.data_dir) as opened:
        folder = opened.folder
        refusal = f"{folder.path} is in use by a server; stop it first"
        with file_errors(folder.path), locked(folder.lock, refusal=refusal):
            count = rotate_secret(folder.secret, opened.database, now=clock(), draw=secrets.token_bytes)
    printer.result(
        f"{count} signing keys are encrypted with a new secret. The old one is in {old_secret(folder.secret)}, for "
        "databases of older backups.",
        {"keys": count},
    )

"""Small files of the user's, some with secrets in them: read whole, replaced at once."""

import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from icehouse.errors import Denied, InvalidFormat, TooLarge, Unavailable

MAX_BYTES: Final = 4 * 1024 * 1024


def config_home(environment: Mapping[str, str]) -> Path:
    """The folder of the user's configurations: ``$XDG_CONFIG_HOME``, or ``~/.config``."""
    text = environment.get("XDG_CONFIG_HOME", "")
    if text.startswith("/"):  # the XDG specification has relative ones ignored
        return Path(text)
    home = environment.get("HOME", "")
    return (Path(home) if home.startswith("/") else Path.home()) / ".config"


def read_text(file: Path) -> str | None:
    """What *file* holds; None if it is not there.

    Raises:
        Denied: it may not be read.
        InvalidFormat: it is not UTF-8.
        TooLarge: nobody writes such a file by hand.
    """
    try:
        with file.open("rb") as opened:
            data = opened.read(MAX_BYTES + 1)
    except FileNotFoundError:
        return None
    except PermissionError as exc:
        raise Denied(f"{file}: {exc.strerror}") from exc
    except OSError as exc:
        raise Unavailable(f"{file}: {exc.strerror}") from exc
    if len(data) > MAX_BYTES:
        raise TooLarge(f"{file} has more than {MAX_BYTES} bytes; a small file was expected")
    try:
        return data.decode()
    except UnicodeDecodeError as exc:
        raise InvalidFormat(f"{file}: byte {exc.start} is not UTF-8") from exc


def write_text(file: Path, text: str, *, mode: int = 0o600) -> None:
    """Replace *file* at once, or make it with its folders. A symlink stays; the file that it leads to is replaced.

    A file that is there keeps its mode, unless *mode* is stricter.

    Raises:
        Denied: the place may not be written, as where a program such as NixOS made it.
        Unavailable: the file system failed.
    """
    try:
        target = file.resolve()
        if target.exists():
            mode &= target.stat().st_mode & 0o777
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8", newline="") as opened:
                os.fchmod(descriptor, mode)
                opened.write(text)
                opened.flush()
                os.fsync(descriptor)
            Path(temporary).replace(target)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
    except (PermissionError, FileExistsError, NotADirectoryError) as exc:
        raise Denied(f"{file} cannot be written: {exc.strerror}") from exc
    except OSError as exc:
        raise Unavailable(f"{file} cannot be written: {exc.strerror}") from exc


def replace_text(file: Path, change: Callable[[str], str], *, is_ours: bool) -> None:
    """Have *file* hold what *change* makes of its text; where nothing is left and *is_ours*, delete it.

    A file that is not there stays so. The errors are those of `read_text` and `write_text`.
    """
    before = read_text(file)
    if before is None:
        return
    after = change(before)
    if not after and is_ours:
        file.unlink()
    elif after != before:
        write_text(file, after, mode=0o777)  # the mode that it has

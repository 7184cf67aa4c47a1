"""Events of a folder, from the real kernel."""

from pathlib import Path

import pytest

from icehouse.client.inotify import FolderEvent, FolderWatch, Happened
from icehouse.errors import NotFound, Unavailable


def overflow(folder: Path) -> None:
    """Let more happen in a folder than the kernel remembers."""
    limit = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    file = folder / ".overflow"
    for _ in range(limit // 2 + 1):
        file.touch()
        file.unlink()


def test_what_appears_and_disappears_is_told_in_order(tmp_path: Path) -> None:
    (tmp_path / "before").touch()
    with FolderWatch(tmp_path) as watch:
        assert watch.read() == []
        (tmp_path / "höher").mkdir()
        (tmp_path / "before").rename(tmp_path / "after")
        (tmp_path / "after").unlink()
        assert watch.read() == [
            FolderEvent(Happened.APPEARED, "höher"),
            FolderEvent(Happened.APPEARED, "after"),
            FolderEvent(Happened.DISAPPEARED, "after"),
        ]
        assert watch.read() == []


def test_more_than_the_kernel_remembers_is_told_as_such(tmp_path: Path) -> None:
    with FolderWatch(tmp_path) as watch:
        overflow(tmp_path)
        assert watch.read()[-1] == FolderEvent(Happened.OVERFLOWED, "")


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="nowhere cannot be watched"):
        FolderWatch(tmp_path / "nowhere")


def test_a_folder_that_is_deleted_is_an_error_and_no_silence(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    with FolderWatch(folder) as watch:
        folder.rmdir()
        with pytest.raises(Unavailable, match="deleted or unmounted"):
            watch.read()

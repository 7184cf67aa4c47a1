"""Small files are replaced at once and stay private."""

import stat
from pathlib import Path

import pytest

from icehouse.client.private_files import MAX_BYTES, config_home, read_text, write_text
from icehouse.errors import Denied, InvalidFormat, TooLarge


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"HOME": "/home/ann"}, "/home/ann/.config"),
        ({"HOME": "/home/ann", "XDG_CONFIG_HOME": "/etc/ann"}, "/etc/ann"),
        ({"HOME": "/home/ann", "XDG_CONFIG_HOME": "relative"}, "/home/ann/.config"),
    ],
)
def test_configurations_are_where_xdg_says(environment: dict[str, str], expected: str) -> None:
    assert config_home(environment) == Path(expected)


def test_a_new_file_is_its_owners_alone(tmp_path: Path) -> None:
    file = tmp_path / "new" / "folder" / "file"
    write_text(file, "a\r\nö")
    assert (read_text(file), stat.S_IMODE(file.stat().st_mode)) == ("a\r\nö", 0o600)
    assert [entry.name for entry in file.parent.iterdir()] == ["file"]


@pytest.mark.parametrize(
    ("before", "wanted", "after"), [(0o644, 0o600, 0o600), (0o600, 0o644, 0o600), (0o644, 0o644, 0o644)]
)
def test_a_file_never_becomes_more_open(tmp_path: Path, before: int, wanted: int, after: int) -> None:
    file = tmp_path / "file"
    file.touch()
    file.chmod(before)
    write_text(file, "text", mode=wanted)
    assert stat.S_IMODE(file.stat().st_mode) == after


def test_a_symlink_stays_one(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("file")
    (tmp_path / "file").write_text("old")
    write_text(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "file").read_text() == "new"


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(Denied, match="file/inner cannot be written"):
        write_text(tmp_path / "file" / "inner", "text")


def test_what_is_no_small_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff")
    (tmp_path / "large").write_bytes(bytes(MAX_BYTES + 1))
    with pytest.raises(InvalidFormat, match="byte 0 is not UTF-8"):
        read_text(tmp_path / "binary")
    with pytest.raises(TooLarge):
        read_text(tmp_path / "large")
    assert read_text(tmp_path / "absent") is None

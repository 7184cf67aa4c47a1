"""Which backups there are, what they begin with, and which to keep."""

import pytest

from icehouse.errors import InvalidFormat
from icehouse.rules.backups import (
    PREAMBLE_BYTES,
    BackupHead,
    BackupName,
    is_due,
    parse_head,
    parse_preamble,
    plan_removal,
    render_head,
)

HEAD = BackupHead(revision="0003", made_at=1_795_391_821, database_bytes=8192, settings="port = 1\n")


def names(*times: int) -> list[BackupName]:
    return [BackupName(time, "0003") for time in times]


def test_a_name_tells_when_and_of_which_revision() -> None:
    name = BackupName(1_795_391_821, "0003")
    assert name.render() == "20261122t235701z-0003.zst"
    assert BackupName.parse(name.render()) == name


@pytest.mark.parametrize("text", ["", "x.zst", "20261322t235701z-0003.zst", "20261122t235701z-.zst", "../a.zst"])
def test_another_name_is_refused(text: str) -> None:
    with pytest.raises(InvalidFormat, match="expected a name such as"):
        BackupName.parse(text)


def test_the_newest_are_kept() -> None:
    assert plan_removal(names(3, 1, 2), keep=2) == names(1)
    assert plan_removal(names(3, 1, 2), keep=1) == names(1, 2)
    assert plan_removal(names(3, 1, 2), keep=3) == plan_removal([], keep=1) == []
    with pytest.raises(InvalidFormat):
        plan_removal(names(1), keep=0)


def test_one_is_due_after_a_day_and_a_wrong_clock_does_not_put_it_off() -> None:
    day = 86_400
    assert is_due([], now=0)
    assert not is_due(names(5), now=5 + day - 1)
    assert is_due(names(5), now=5 + day)
    assert is_due(names(10 * day), now=day)


def test_a_head_is_read_back_and_is_skipped_by_zstd() -> None:
    data = render_head(HEAD)
    assert data[:4] == bytes.fromhex("5d2a4d18")
    size = parse_preamble(data[:PREAMBLE_BYTES])
    assert parse_head(data[PREAMBLE_BYTES:]) == HEAD
    assert size == len(data) - PREAMBLE_BYTES


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04\x00\x00\x00\x00", bytes.fromhex("5d2a4d18ffffffff")])
def test_what_is_no_backup_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidFormat, match="this is no backup"):
        parse_preamble(data)


def test_a_later_version_is_refused() -> None:
    with pytest.raises(InvalidFormat, match="version 2"):
        parse_head(render_head(HEAD)[PREAMBLE_BYTES:].replace(b'"version":1', b'"version":2'))
    with pytest.raises(InvalidFormat, match="damaged"):
        parse_head(b"{")

"""Keys that are kept in a file, or behind a command: what they sign, and that a wrong answer never counts."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path

import pytest
import structlog.testing

from icehouse.api.publish import PathsRequest
from icehouse.db.caches import CacheRow
from icehouse.db.keys import list_keys
from icehouse.db.schema import path
from icehouse.errors import CannotSign, Conflict, InvalidFormat, NotFound
from icehouse.nix.signing import PublicKey, SecretKey, Signature
from icehouse.rules.key_places import KeyCommand, KeyFile, KeyPlace
from icehouse.services.keys import MAX_KEYS, Keys, add_outside_key
from icehouse.services.outside_keys import OutsideKeys, read_key_file
from icehouse.services.signing import Sealer, Signer, try_place
from tests.services.publishing import NOW, TESTER, Store, nar_of, path_body

KEY = SecretKey.generate("kms-1", b"k" * 32)
SEALER = Sealer(b"s" * 32)
TEXTS = [b"1;%d" % number for number in range(3)]
LIB = f"{'a' * 32}-lib"

_SIGN = f"""
import base64, sys
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
key = Ed25519PrivateKey.from_private_bytes({KEY.seed!r})
lines = [base64.b64encode(key.sign(line.rstrip(b"\\n"))).decode() for line in sys.stdin.buffer]
"""


def command(script: str) -> KeyCommand:
    """A command that has the right signatures as `lines`, and then does what *script* says."""
    return KeyCommand((sys.executable, "-c", _SIGN + script))


RIGHT = command("print(*lines, sep='\\n')")


async def sign(
    place: KeyPlace, texts: Sequence[bytes] = TEXTS, key: PublicKey = KEY.public_key, seconds: float = 60
) -> list[Signature]:
    return await OutsideKeys(run_seconds=seconds).sign(place, key, texts)


async def fail(place: KeyPlace, key: PublicKey = KEY.public_key, seconds: float = 60) -> str:
    """Why a key does not sign, as the log has it. What clients are told names the key and the remedy alone."""
    with structlog.testing.capture_logs() as logs, pytest.raises(CannotSign) as error:
        await sign(place, key=key, seconds=seconds)
    told = str(error.value)
    assert told.startswith("signing key kms-1 does not sign now, and nothing was changed")
    reason = str(logs[0]["reason"])
    assert reason not in told
    return reason


def remove(place: KeyFile) -> None:
    Path(place.path).unlink()


def file_of(folder: Path, text: str) -> KeyFile:
    file = folder / "key"
    file.write_text(text)
    return KeyFile(str(file))


@pytest.mark.parametrize(
    "script", ["print(*lines, sep='\\n')", "print(*('kms-1:' + line for line in lines), sep='\\n')"]
)
async def test_command_signs_each_fingerprint_with_or_without_the_name(script: str) -> None:
    assert await sign(command(script)) == [KEY.sign(text) for text in TEXTS]


async def test_many_fingerprints_go_to_several_runs(tmp_path: Path) -> None:
    texts = [b"1;%d;" % number + b"r" * 10_000 for number in range(1_201)]
    script = f"open({str(tmp_path / 'runs')!r}, 'a').write(f'{{len(lines)}} '); print(*lines, sep='\\n')"
    assert await sign(command(script), texts) == [KEY.sign(text) for text in texts]
    runs = [int(count) for count in (tmp_path / "runs").read_text().split()]
    assert (sum(runs), max(runs)) == (1_201, 419)  # of 4 MiB each


async def test_what_a_command_complains_of_is_logged_and_not_told() -> None:
    reason = await fail(command("sys.exit('the token hunter2 is not valid')"))
    assert "ended with status 1: the token hunter2 is not valid" in reason


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("print(lines[0])", "1 lines for 3 fingerprints"),
        ("print(*lines, 'more', sep='\\n')", "4 lines for 3 fingerprints"),
        ("print(*lines[::-1], sep='\\n')", "is no signature by kms-1:"),
        ("print(*('other-1:' + line for line in lines), sep='\\n')", "is no signature by kms-1:"),
        ("print(*('x' for line in lines), sep='\\n')", "signature"),
        ("print('x' * 10_000)", "it wrote more than 1536 bytes"),
        ("sys.stdout.buffer.write(b'\\xff\\n' * 3)", "signature"),
    ],
    ids=["too few", "too many", "of others", "another name", "no base64", "flood", "no text"],
)
async def test_answer_that_is_not_right_is_none(script: str, reason: str) -> None:
    assert reason in await fail(command(script))


async def test_flood_without_end_is_cut_off() -> None:
    assert "it wrote more than" in await fail(KeyCommand(("/bin/cat", "/dev/zero")))


async def test_complaints_without_end_do_not_stop_a_command() -> None:
    script = "sys.stderr.write('x' * 1_000_000); print(*lines, sep='\\n')"
    assert len(await sign(command(script))) == 3


async def test_command_that_does_not_read_or_does_not_exist_fails(tmp_path: Path) -> None:
    assert "ended with status 1" in await fail(KeyCommand(("/bin/false",)))
    assert "No such file" in await fail(KeyCommand((str(tmp_path / "absent"),)))
    assert "Permission denied" in await fail(KeyCommand((str(tmp_path),)))


async def test_command_that_closes_its_output_and_goes_on_is_killed(tmp_path: Path) -> None:
    script = f"echo $$ > {tmp_path}/pid; exec >&- 2>&-; sleep 1000"
    assert "did not end in time" in await fail(KeyCommand(("/bin/sh", "-c", script)), seconds=1.5)
    await _gone(int((tmp_path / "pid").read_text()))


async def test_command_that_hangs_is_killed_with_its_children(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    script = f"echo $$ > {pids}; sleep 1000 & echo $! >> {pids}; echo > {tmp_path}/begun; wait"
    assert "no answer in time" in await fail(KeyCommand(("/bin/sh", "-c", script)), seconds=1.5)
    for pid in pids.read_text().split():
        await _gone(int(pid))


async def test_children_that_outlive_a_command_do_not_hold_its_answer_open(tmp_path: Path) -> None:
    script = f"sleep 1000 & echo $! > {tmp_path}/pid; exit 0"
    assert "no answer in time" in await fail(KeyCommand(("/bin/sh", "-c", script)), seconds=1.5)
    await _gone(int((tmp_path / "pid").read_text()))


async def test_command_is_killed_when_nobody_waits_any_more(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    running = asyncio.ensure_future(sign(KeyCommand(("/bin/sh", "-c", f"echo $$ > {fifo}; sleep 1000"))))
    pid = int(await asyncio.to_thread(fifo.read_text))
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    await _gone(pid)


async def test_event_loop_goes_on_while_a_command_runs(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    running = asyncio.ensure_future(sign(command(f"open({str(fifo)!r}).read(); print(*lines, sep='\\n')")))
    await asyncio.to_thread(fifo.write_text, "go on")  # never, were the loop blocked until the command ends
    assert len(await running) == 3


async def test_file_is_read_each_time(tmp_path: Path) -> None:
    place = file_of(tmp_path, KEY.render() + "\n")
    assert await sign(place) == [KEY.sign(text) for text in TEXTS]
    remove(place)
    assert "No such file" in await fail(place)


async def test_file_with_another_key_or_none_does_not_sign(tmp_path: Path) -> None:
    other = SecretKey.generate("kms-1", b"o" * 32)
    assert f"expected {KEY.public_key.render()}" in await fail(file_of(tmp_path, other.render()))
    assert "secret key" in await fail(file_of(tmp_path, "kms-1"))
    assert "so it is no secret key" in await fail(file_of(tmp_path, "k" * 10_000))
    assert "it is no file" in await fail(KeyFile(str(tmp_path)))
    os.mkfifo(tmp_path / "fifo")
    assert "it is no file" in await fail(KeyFile(str(tmp_path / "fifo")))


def test_secret_is_in_no_complaint(tmp_path: Path) -> None:
    text = KEY.render()
    for wrong in (text[:-8], text.replace("kms-1", "kms 1"), text + "x"):
        with pytest.raises(InvalidFormat) as error:
            read_key_file(Path(file_of(tmp_path, wrong).path))
        assert text[10:40] not in str(error.value)


class World:
    """A cache with a key in the database."""

    def __init__(self, store: Store, cache: CacheRow) -> None:
        self.store = store
        self.cache = cache
        self.signer = Signer(store.database, SEALER)
        self.keys = Keys(
            store.database, SEALER, self.signer, clock=lambda: NOW, draw=lambda size: b"d" * size, wake=lambda: None
        )

    async def add(self, place: KeyPlace, key: SecretKey = KEY, sealer: Sealer = SEALER) -> None:
        await asyncio.to_thread(
            add_outside_key, self.store.database, sealer, "main", place, key.public_key, nonce=b"n" * 12, now=NOW
        )


@pytest.fixture
async def world(tmp_path: Path) -> AsyncGenerator[World]:
    (tmp_path / "data").mkdir()
    store = Store.open(tmp_path / "data")
    world = World(store, await store.create_cache("main"))
    signing = Store(store.database, store.blobs, workers=store.workers, keys=world.signer)
    yield World(signing, world.cache)
    await signing.nars.close()
    signing.reader.close()
    await store.close()


async def test_path_is_signed_by_a_key_outside_and_appears_only_when_that_signs(world: World, tmp_path: Path) -> None:
    place = file_of(tmp_path, KEY.render())
    await world.add(place)
    await world.keys.activate_key(world.cache, "kms-1", TESTER)
    body = path_body(LIB, nar_of(b"lib"))
    await world.store.register(world.cache, await world.store.nar_body(world.cache, nar_of(b"lib")))
    remove(place)
    with pytest.raises(CannotSign):
        await world.store.publisher.publish_paths(world.cache, PathsRequest([body]), token_id=None)
    assert (await world.store.count(path), world.store.keys("journal/")) == (0, [])
    file_of(tmp_path, KEY.render())
    answer = await world.store.publisher.publish_paths(world.cache, PathsRequest([body]), token_id=None)
    assert answer.published == [LIB]


async def test_key_that_does_not_sign_is_not_activated(world: World) -> None:
    await world.add(KeyCommand(("/bin/false",)))
    with pytest.raises(CannotSign):
        await world.keys.activate_key(world.cache, "kms-1", TESTER)
    (view,) = await world.keys.list_keys(world.cache)
    assert (view.state, view.kept, view.public_key) == ("staged", "command", KEY.public_key.render())


async def test_private_half_and_place_are_in_no_row(world: World, tmp_path: Path) -> None:
    await world.add(file_of(tmp_path, KEY.render()))
    (row,) = await world.store.database.read(lambda c: list_keys(c, world.cache.id))
    for secret in (KEY.seed, KEY.render().encode(), str(tmp_path).encode()):
        assert secret not in row.sealed_secret_key


async def test_name_number_and_secret_are_checked_as_for_other_keys(world: World, tmp_path: Path) -> None:
    place = file_of(tmp_path, KEY.render())
    await world.add(place)
    with pytest.raises(Conflict, match="has a key kms-1 already"):
        await world.add(place)
    with pytest.raises(Conflict, match="secret does not open its keys"):
        await world.add(place, SecretKey.generate("b", b"b" * 32), Sealer(b"x" * 32))
    for number in range(MAX_KEYS - 1):
        await world.add(place, SecretKey.generate(f"k-{number}", b"b" * 32))
    with pytest.raises(Conflict, match="as many as it may"):
        await world.add(place, SecretKey.generate("b", b"b" * 32))
    with pytest.raises(NotFound):
        add_outside_key(world.store.database, SEALER, "absent", place, KEY.public_key, nonce=b"n" * 12, now=NOW)


async def test_place_is_tried_before_it_is_added() -> None:
    await try_place(RIGHT, KEY.public_key)
    with pytest.raises(CannotSign):
        await try_place(RIGHT, SecretKey.generate("kms-1", b"z" * 32).public_key)


async def _gone(pid: int) -> None:
    """Return once a process is none any more, or waits for its parent to notice."""
    await asyncio.to_thread(_wait_for_end, pid)


def _wait_for_end(pid: int) -> None:
    while _is_running(pid):
        os.sched_yield()


def _is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):  # the latter where it ends between opening and reading
        return False

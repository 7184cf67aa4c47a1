"""The daemon and the hook, as their users run them."""

import os
import random
import signal
import subprocess
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, cast

import pytest

from tests.client.private_nix import CLOSURE, PrivateNix
from tests.end_to_end.conftest import ServerProcess, User
from tests.end_to_end.nix_clients import SYSTEM_LINE, find_programs
from tests.end_to_end.test_watch_exec import published

pytestmark = pytest.mark.end_to_end


def many(count: int) -> str:
    """An expression of paths of random bytes: each is sent by its own push."""
    return f"""
    builtins.genList (number: derivation {{
      name = "random-${{toString number}}"; system = builtins.currentSystem; builder = "/bin/sh";
      PATH = "/usr/bin:/bin";
      args = [ "-c" "head -c 3000000 /dev/urandom > $out" ];
    }}) {count}
    """


@pytest.fixture
def user(admin: User, builder: PrivateNix, tmp_path: Path) -> User:
    """The administrator, with a cache, a store, and a folder for a daemon."""
    admin.icehouse("cache", "create", "team", "--public", "--store-dir", admin.environment["NIX_STORE_DIR"])
    builder.run("nix-store", "--store", str(builder.root), "--init")
    admin.environment["ICEHOUSE_DAEMON_DIR"] = str(tmp_path / "daemon")
    return admin


@pytest.fixture(params=[SYSTEM_LINE, "2.26"])
def hooked(request: pytest.FixtureRequest, user: User, builder: PrivateNix) -> PrivateNix:
    """The administrator's Nix, of several versions, which runs the hook after what it builds."""
    line: str = request.param
    if line == SYSTEM_LINE and is_in_chroot():
        pytest.skip("Nix 2.8 as root runs its hook in the machine's own root folder, where this one has none")
    user.environment["PATH"] = f"{find_programs(line)}:{user.environment['PATH']}"
    if line != SYSTEM_LINE:
        with (user.home / ".config/nix/nix.conf").open("a") as file:
            file.write("build-hook =\n")  # as scripts/nix_clients.py tells
    user.icehouse("hook", "install", "--mode", "user-nixconf", "--spool", f"{user.home}/spool")
    return builder


def is_in_chroot() -> bool:
    """Whether the root folder is another than that of the machine's first process, which may not be seen from there."""
    try:
        return not Path("/").samefile("/proc/1/root")
    except OSError:
        return os.geteuid() == 0  # Others cannot leave their root folder, nor can their Nix.


def start(user: User, builder: PrivateNix, *options: str) -> subprocess.Popen[str]:
    process = user.start("daemon", "run", "team", "--store", str(builder.root), *options)
    assert process.stderr is not None
    for line in process.stderr:
        if "listening at" in line:
            return process
    pytest.fail("the daemon did not start")


@contextmanager
def running(user: User, builder: PrivateNix, *options: str) -> Generator[subprocess.Popen[str]]:
    process = start(user, builder, *options)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def status(user: User) -> dict[str, Any]:
    answer = user.icehouse("daemon", "status", "--json").json
    return cast("dict[str, Any]", answer["caches"][0])


def wait_until_pushed(user: User, count: int) -> dict[str, Any]:
    now: dict[str, Any] = {}
    for _ in range(100):
        now = status(user)
        assert (now["trouble"], now["refusals"]) == (None, [])
        if now["pushed"] >= count:
            return now
    pytest.fail(f"still waiting: {now}")


def test_what_is_built_with_the_hook_is_pushed(user: User, hooked: PrivateNix) -> None:
    with running(user, hooked, "--spool", f"{user.home}/spool"):
        hooked.build(CLOSURE, "top")
        wait_until_pushed(user, 3)
    assert published(user, "team") == ["base", "middle", "top"]


def test_builds_go_on_while_nobody_listens_and_are_pushed_later(user: User, hooked: PrivateNix) -> None:
    hooked.build(CLOSURE, "top")
    with running(user, hooked, "--spool", f"{user.home}/spool"):
        wait_until_pushed(user, 3)
    assert published(user, "team") == ["base", "middle", "top"]


def test_removing_the_hook_leaves_the_files_as_they_were(user: User, builder: PrivateNix) -> None:
    folder = user.home / ".config/nix"
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    user.icehouse("use", "team")
    used = {file.name: file.read_bytes() for file in folder.iterdir()}
    user.icehouse("hook", "install", "--mode", "user-nixconf")
    assert "post-build-hook = " in (folder / "icehouse.conf").read_text()
    user.icehouse("remove", "team")
    assert "post-build-hook = " in builder.run("nix", "--extra-experimental-features", "nix-command", "show-config")
    user.icehouse("use", "team")
    user.icehouse("hook", "remove", "--mode", "user-nixconf")
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == used
    user.icehouse("remove", "team")
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before


def test_another_hook_stays_the_users(user: User) -> None:
    nix_conf = user.home / ".config/nix/nix.conf"
    text = nix_conf.read_text() + "post-build-hook = /usr/local/bin/mine\n"
    nix_conf.write_text(text)
    done = user.icehouse("hook", "install", "--mode", "user-nixconf")
    assert "call" in done.err
    assert nix_conf.read_text() == text


def test_paths_that_were_told_wait_out_a_server_that_is_down_and_a_stop(
    user: User, server: ServerProcess, builder: PrivateNix
) -> None:
    top = builder.build(CLOSURE, "top")
    server.stop()
    process = start(user, builder)
    user.icehouse("daemon", "push", "--store", str(builder.root), top)
    stopped = user.icehouse("daemon", "stop", "--timeout", "1s", "--json").json
    assert stopped["caches"][0]["waiting"] == 1
    process.communicate()
    assert process.returncode == 0
    server.start()
    with running(user, builder):
        wait_until_pushed(user, 1)
    assert published(user, "team") == ["base", "middle", "top"]


def test_the_doctor_tells_of_the_daemon(user: User, server: ServerProcess, builder: PrivateNix) -> None:
    def tells() -> list[str]:
        found = user.try_icehouse("doctor", "--json").json["findings"]
        return [f"{each['level']}: {each['text']}" for each in found if each["about"] == "daemon"]

    top = builder.build(CLOSURE, "top")
    assert tells() == []
    user.icehouse("hook", "install", "--mode", "user-nixconf")
    (missing,) = tells()
    assert missing.startswith("note: Nix runs ")
    assert "no daemon listens at" in missing
    with running(user, builder):
        assert tells() == [f"ok: 0 waiting for {server.url}/team, 0 pushed"]
        server.stop()
        user.icehouse("daemon", "push", "--store", str(builder.root), top)
        while not status(user)["trouble"]:
            pass
        (waiting,) = tells()
        assert waiting.startswith(f"problem: 1 waiting for {server.url}/team: ")


def test_stopping_pushes_what_waits(user: User, builder: PrivateNix) -> None:
    paths = build_many(builder, 4)
    process = start(user, builder)
    user.icehouse("daemon", "push", "--store", str(builder.root), *paths)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate()
    assert "0 waiting, 4 pushed" in err


def test_only_its_user_may_talk_to_it_and_there_is_one(user: User, builder: PrivateNix, tmp_path: Path) -> None:
    with running(user, builder):
        socket = tmp_path / "daemon" / "socket"
        assert (socket.stat().st_mode & 0o777, socket.parent.stat().st_mode & 0o777) == (0o600, 0o700)
        again = user.try_icehouse("daemon", "run", "team")
        assert (again.code, "runs already" in again.err) == (1, True)
        other = user.try_icehouse("daemon", "push", "--cache", "other", "--store", str(builder.root), str(builder.root))
        assert other.code != 0
    assert user.try_icehouse("daemon", "status").code == 5


def build_many(builder: PrivateNix, count: int) -> list[str]:
    command = ("nix-build", "--no-out-link", "--store", str(builder.root), "-E", many(count))
    return builder.run(*command).splitlines()


@pytest.mark.parametrize("kills", [3, pytest.param(100, marks=pytest.mark.long)])
def test_a_daemon_that_is_killed_forgets_nothing_and_publishes_nothing_twice(
    user: User, server: ServerProcess, builder: PrivateNix, tmp_path: Path, kills: int
) -> None:
    generator = random.Random(6)
    spool, hook = str(tmp_path / "spool"), user.home / ".config/nix/icehouse-post-build-hook"
    user.icehouse("hook", "install", "--mode", "user-nixconf", "--spool", spool)
    (user.home / ".config/nix/icehouse.conf").unlink()  # each path is told of once, by hand
    paths = build_many(builder, 2 * kills)
    for told, hooked in pairs(paths):
        with running(user, builder, "--spool", spool) as process:
            user.icehouse("daemon", "push", "--store", str(builder.root), told)
            environment = {**user.environment, "OUT_PATHS": hooked, "DRV_PATH": f"{hooked}.drv"}
            subprocess.run([hook], env=environment, check=True)
            with suppress(subprocess.TimeoutExpired):  # the moment of the kill
                process.wait(generator.uniform(0, 1))
    with running(user, builder, "--spool", spool):
        now = wait_until_pushed(user, len(paths))
    assert (now["pushed"], now["waiting"], now["refused"], now["gone"]) == (len(paths), 0, 0, 0)
    assert published(user, "team") == sorted(Path(path).name.partition("-")[2] for path in paths)
    # Each of them is of random bytes: what was sent twice and stored twice would be on the disk twice.
    stored = sum(file.stat().st_size for file in (server.data_dir / "packs").rglob("*") if file.is_file())
    assert stored < 3_000_000 * (len(paths) + kills) + 1_000_000


def pairs(paths: list[str]) -> Iterator[tuple[str, str]]:
    return zip(paths[::2], paths[1::2], strict=True)

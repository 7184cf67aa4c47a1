"""`icehouse watch-exec`: what a command builds is pushed while it builds, and the command notices nothing."""

import signal
import subprocess
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest

from tests.client.private_nix import PrivateNix
from tests.end_to_end.conftest import ServerProcess, User
from tests.end_to_end.nix_clients import LINES, NixClient

pytestmark = pytest.mark.end_to_end


def chain(count: int, seconds: float) -> str:
    """An expression of derivations, each of which needs the one before and takes a while."""
    return f"""
    let
      make = number: derivation {{
        name = "link-${{toString number}}"; system = builtins.currentSystem; builder = "/bin/sh";
        PATH = "/usr/bin:/bin";
        before = if number == 0 then "" else make (number - 1);
        args = [ "-c" "sleep {seconds}; echo $before > $out; echo note >> $out" ];
      }};
    in make {count - 1}
    """


BROKEN = """
derivation {
  name = "broken"; system = builtins.currentSystem; builder = "/bin/sh"; args = [ "-c" "echo no; exit 9" ];
}
"""


@pytest.fixture
def cache(admin: User, builder: PrivateNix) -> str:
    admin.icehouse("cache", "create", "team", "--public", "--store-dir", admin.environment["NIX_STORE_DIR"])
    builder.run("nix-store", "--store", str(builder.root), "--init")
    return "team"


def build_command(builder: PrivateNix, expression: str) -> list[str]:
    return ["nix-build", "--no-out-link", "--store", str(builder.root), "-E", expression]


def published(admin: User, cache: str) -> list[str]:
    """Names of the paths of a cache."""
    paths = admin.icehouse("path", "list", cache, "--json").json
    return sorted(path["store_path"].partition("-")[2] for path in cast("list[dict[str, str]]", paths))


def test_what_is_built_is_pushed_and_the_command_keeps_its_streams(
    admin: User, builder: PrivateNix, cache: str
) -> None:
    command = build_command(builder, chain(10, 0.1))
    done = admin.icehouse("watch-exec", cache, "--store", str(builder.root), "--", *command)
    assert done.out.splitlines() == [builder.run(*command).splitlines()[-1]]
    assert "10 paths pushed to team" in done.err, done.err
    assert published(admin, cache) == sorted(f"link-{number}" for number in range(10))


@pytest.mark.parametrize("line", LINES)
def test_every_nix_is_understood_also_behind_its_daemon(
    admin: User, server: ServerProcess, line: str, tmp_path: Path
) -> None:
    client = NixClient.make(line, tmp_path / "client")
    client.run("nix-store", "--init")
    user = User(client.home, client.environment)
    user.icehouse("login", server.url, "--token-file", str(server.data_dir / "admin-token"))
    create = ("cache", "create", "team", "--public", "--store-dir", client.environment["NIX_STORE_DIR"])
    admin.icehouse(*create)
    user.icehouse("watch-exec", "team", "--", "nix-build", "--no-out-link", "-E", chain(1, 0))
    assert published(admin, "team") == ["link-0"]
    with nix_daemon(client):
        remote = replace(user, environment={**user.environment, "NIX_REMOTE": "daemon"})
        remote.icehouse("watch-exec", "team", "--", "nix-build", "--no-out-link", "-E", chain(2, 0))
    assert published(admin, "team") == ["link-0", "link-1"]


@contextmanager
def nix_daemon(client: NixClient) -> Generator[None]:
    """A Nix daemon for a client's store."""
    process = subprocess.Popen(["nix-daemon"], env=client.environment)
    try:
        while not (client.root / "nix/var/nix/daemon-socket/socket").exists():
            assert process.poll() is None
            time.sleep(0.01)  # until another process is ready
        yield
    finally:
        process.terminate()
        process.wait()


def test_an_output_that_is_addressed_by_its_content_is_pushed(admin: User, builder: PrivateNix, cache: str) -> None:
    expression = """
    derivation {
      name = "floating"; system = builtins.currentSystem; builder = "/bin/sh"; args = [ "-c" "echo x > $out" ];
      __contentAddressed = true; outputHashMode = "recursive"; outputHashAlgo = "sha256";
    }
    """
    command = [*build_command(builder, expression), "--extra-experimental-features", "ca-derivations"]
    admin.icehouse("watch-exec", cache, "--store", str(builder.root), "--", *command)
    assert published(admin, cache) == ["floating"]


def test_a_failing_command_keeps_its_exit_code_and_what_it_built_is_pushed(
    admin: User, builder: PrivateNix, cache: str
) -> None:
    good = " ".join(f"'{word}'" for word in build_command(builder, chain(1, 0)))
    done = admin.try_icehouse("watch-exec", cache, "--store", str(builder.root), "--", "sh", "-c", f"{good}; exit 42")
    assert done.code == 42
    assert published(admin, cache) == ["link-0"]


def test_a_build_that_fails_pushes_nothing(admin: User, builder: PrivateNix, cache: str) -> None:
    command = build_command(builder, BROKEN)
    done = admin.try_icehouse("watch-exec", cache, "--store", str(builder.root), "--fail-on-push-error", "--", *command)
    assert done.code == subprocess.run(command, env=admin.environment, capture_output=True, check=False).returncode
    assert "0 paths pushed to team" in done.err
    assert published(admin, cache) == []


def test_a_server_that_is_down_leaves_the_exit_code_and_what_was_not_pushed_is_told(
    admin: User, builder: PrivateNix, server: ServerProcess, cache: str
) -> None:
    server.stop()
    command = build_command(builder, chain(1, 0))
    options = ("--store", str(builder.root))
    done = admin.try_icehouse("watch-exec", cache, *options, "--", *command)
    assert done.code == 0
    assert "-link-0: " in done.err
    assert "cannot be reached" in done.err
    again = build_command(builder, chain(2, 0))
    done = admin.try_icehouse("watch-exec", cache, *options, "--fail-on-push-error", "--", *again)
    assert done.code == 1


def test_a_cache_that_nobody_is_logged_in_to_is_no_reason_not_to_run_the_command(
    builder: PrivateNix, make_user: Callable[[str], User]
) -> None:
    del builder
    stranger = make_user("stranger")
    done = stranger.try_icehouse("watch-exec", "team", "--", "sh", "-c", "cat; exit 3", stdin="from standard input")
    assert (done.code, done.out) == (3, "from standard input")
    assert "nothing will be pushed" in done.err


def test_a_command_that_cannot_be_started_gives_the_exit_codes_of_a_shell(admin: User, tmp_path: Path) -> None:
    assert admin.try_icehouse("watch-exec", "team", "--", "no-such-program").code == 127
    assert admin.try_icehouse("watch-exec", "team", "--", str(tmp_path)).code == 126


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_is_the_commands(admin: User, number: signal.Signals) -> None:
    name = number.name.removeprefix("SIG")
    script = f"trap 'echo caught; exit 7' {name}; echo ready; while :; do sleep 0.05; done"
    ours = signal.signal(number, signal.SIG_DFL)  # below nohup it is ignored, and a shell traps nothing that was
    try:
        process = admin.start("watch-exec", "team", "--", "sh", "-c", script)
    finally:
        signal.signal(number, ours)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(number)
    out, _ = process.communicate()
    assert (out, process.returncode) == ("caught\n", 7)


def test_a_command_that_a_signal_ends_is_told_as_by_a_shell(admin: User) -> None:
    assert admin.try_icehouse("watch-exec", "team", "--", "sh", "-c", "kill -KILL $$").code == 128 + 9

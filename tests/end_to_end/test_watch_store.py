"""`icehouse watch-store`: what is built in a store is pushed until SIGTERM."""

import signal
import socket
from pathlib import Path

import pytest

from tests.client.private_nix import CLOSURE, PrivateNix
from tests.end_to_end.conftest import ServerProcess, User
from tests.end_to_end.test_watch_exec import published

pytestmark = pytest.mark.end_to_end


def watch(admin: User, builder: PrivateNix, tmp_path: Path, *, is_server_up: bool) -> tuple[int, str]:
    """Build something while the store is watched; the exit code and the messages of the watching."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "notify"))
        admin.environment["NOTIFY_SOCKET"] = listener.getsockname()
        process = admin.start("watch-store", "team", "--store", str(builder.root))
        assert listener.recv(100) == b"READY=1"
        builder.build(CLOSURE, "top")
        if is_server_up:
            while published(admin, "team") != ["base", "middle", "top"]:
                assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        assert listener.recv(100) == b"STOPPING=1"
    _, err = process.communicate()
    return process.returncode, err


def make_cache(admin: User, builder: PrivateNix) -> None:
    builder.run("nix-store", "--store", str(builder.root), "--init")
    admin.icehouse("cache", "create", "team", "--public", "--store-dir", builder.environment["NIX_STORE_DIR"])


def test_what_is_built_is_pushed_at_once(admin: User, builder: PrivateNix, tmp_path: Path) -> None:
    make_cache(admin, builder)
    code, err = watch(admin, builder, tmp_path, is_server_up=True)
    assert (code, "3 paths pushed to team" in err) == (0, True), err


def test_what_was_not_pushed_is_told(admin: User, server: ServerProcess, builder: PrivateNix, tmp_path: Path) -> None:
    make_cache(admin, builder)
    server.stop()
    code, err = watch(admin, builder, tmp_path, is_server_up=False)
    assert code == 1
    assert "-top" in err
    assert "cannot be reached" in err

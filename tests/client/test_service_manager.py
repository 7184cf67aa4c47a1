"""What systemd is told."""

import asyncio
import os
import socket
from collections.abc import Generator
from pathlib import Path

import pytest

from icehouse.client.service_manager import ServiceManager


@pytest.fixture
def listener(tmp_path: Path) -> Generator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "notify"))
        yield listener


def test_ready_and_stopping_are_told(listener: socket.socket) -> None:
    manager = ServiceManager({"NOTIFY_SOCKET": listener.getsockname()})
    manager.ready()
    manager.status("two\nlines")
    manager.stopping()
    assert [listener.recv(100) for _ in range(3)] == [b"READY=1", b"STATUS=two lines", b"STOPPING=1"]


def test_an_abstract_address_is_one() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(f"\0icehouse-test-{os.getpid()}")
        ServiceManager({"NOTIFY_SOCKET": f"@icehouse-test-{os.getpid()}"}).ready()
        assert listener.recv(100) == b"READY=1"


@pytest.mark.parametrize("address", [None, "", "/nowhere/at/all"])
def test_nobody_who_listens_is_no_trouble(address: str | None) -> None:
    ServiceManager({} if address is None else {"NOTIFY_SOCKET": address}).ready()


async def test_the_watchdog_hears_that_the_loop_turns(listener: socket.socket) -> None:
    environment = {"NOTIFY_SOCKET": listener.getsockname(), "WATCHDOG_USEC": "2000", "WATCHDOG_PID": str(os.getpid())}
    async with ServiceManager(environment).watched():
        told = [await asyncio.to_thread(listener.recv, 100) for _ in range(3)]
    assert told == [b"WATCHDOG=1"] * 3


async def test_the_watchdog_of_another_process_hears_nothing(listener: socket.socket) -> None:
    environment = {"NOTIFY_SOCKET": listener.getsockname(), "WATCHDOG_USEC": "2000", "WATCHDOG_PID": "1"}
    async with ServiceManager(environment).watched():
        ServiceManager(environment).ready()
        assert await asyncio.to_thread(listener.recv, 100) == b"READY=1"

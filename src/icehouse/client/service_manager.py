"""What a service tells the service manager that started it.

Source: sd_notify(3), and systemd.service(5) on ``Type=notify`` and ``WatchdogSec=``.
"""

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from typing import Final

_ABSTRACT: Final = "@"
_MICROSECONDS: Final = 1_000_000


class ServiceManager:
    """Whoever listens at ``$NOTIFY_SOCKET``; nobody, if that is not set."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._address = environment.get("NOTIFY_SOCKET", "")
        watched = environment.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        microseconds = environment.get("WATCHDOG_USEC", "")
        self._watchdog_seconds = int(microseconds) / _MICROSECONDS if watched and microseconds.isdecimal() else 0.0

    def ready(self) -> None:
        """The service does its work from now on."""
        self._send("READY=1")

    def stopping(self) -> None:
        """The service is about to end."""
        self._send("STOPPING=1")

    def status(self, text: str) -> None:
        """Show *text* beside the service."""
        self._send(f"STATUS={' '.join(text.split())}")

    @asynccontextmanager
    async def watched(self) -> AsyncGenerator[None]:
        """Tell twice in each period of the watchdog that the event loop turns, while the body runs."""
        telling = asyncio.create_task(self._tell_alive())
        try:
            yield
        finally:
            telling.cancel()
            await asyncio.wait([telling])

    async def _tell_alive(self) -> None:
        while self._watchdog_seconds:
            self._send("WATCHDOG=1")
            await asyncio.sleep(self._watchdog_seconds / 2)

    def _send(self, text: str) -> None:
        if not self._address.startswith(("/", _ABSTRACT)):
            return
        address = f"\0{self._address[1:]}" if self._address.startswith(_ABSTRACT) else self._address
        # A manager that does not listen is no reason to stop.
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as telling:
            telling.sendto(text.encode(), socket.MSG_DONTWAIT, address)

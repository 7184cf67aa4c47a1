"""A client that calls an ASGI application in this process, with whatever path and headers a test likes."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from icehouse.http.asgi import Application, Message, Scope


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back. Header names are in small letters."""

    status: int
    headers: dict[str, str]
    body: bytes


@dataclass
class Connection:
    """One request's connection. The client leaves when the answer's body has *leaves_after* bytes, if that is given."""

    leaves_after: int | None = None
    body: bytes | None = None
    """Of the request, which is sent once, in one piece."""
    sent: list[Message] = field(default_factory=list[Message])
    bytes_received: int = 0
    left: asyncio.Event = field(default_factory=asyncio.Event)

    async def receive(self) -> Message:
        if self.body is not None:
            body, self.body = self.body, None
            return {"type": "http.request", "body": body, "more_body": False}
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        if not self.left.is_set():
            self.sent.append(message)
            self.bytes_received += len(message.get("body", b""))
        has_all = message["type"] == "http.response.body" and not message.get("more_body", False)
        if has_all or (self.leaves_after is not None and self.bytes_received >= self.leaves_after):
            self.left.set()
        await asyncio.sleep(0)

    def answer(self) -> Answer:
        start, *parts = self.sent
        assert start["type"] == "http.response.start"
        assert all(part["more_body"] for part in parts[:-1])
        assert not parts[-1].get("more_body", False)
        headers = [(name.decode(), value.decode()) for name, value in start["headers"]]
        assert len(dict(headers)) == len(headers)
        return Answer(start["status"], dict(headers), b"".join(bytes(part["body"]) for part in parts))


def make_scope(method: str, raw_path: bytes, headers: dict[str, str]) -> Scope:
    return {
        "type": "http",
        "method": method,
        "path": raw_path.decode("latin-1"),
        "raw_path": raw_path,
        "query_string": b"",
        "headers": [(name.lower().encode(), value.encode()) for name, value in headers.items()],
        "client": ("192.0.2.7", 1234),
        "state": {},
    }


async def ask(
    app: Application,
    raw_path: str | bytes,
    method: str = "GET",
    headers: dict[str, str] | None = None,
    body: bytes | None = None,
) -> Answer:
    connection = Connection(body=body)
    path = raw_path.encode() if isinstance(raw_path, str) else raw_path
    await app(make_scope(method, path, headers or {}), connection.receive, connection.send)
    return connection.answer()

"""Signing with keys that are kept outside of the database: in a file, or behind a command.

A command gets fingerprints on stdin, each on a line of its own, and writes as many lines with signatures, in the same
order: ``<key name>:<base64>`` as Nix writes them, or the base64 alone. It ends with status 0. What it writes to stderr
goes to the server's log.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import selectors
import signal
import stat
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from selectors import EVENT_READ, EVENT_WRITE
from subprocess import PIPE, Popen, TimeoutExpired
from typing import Final

import structlog

from icehouse.errors import CannotSign, InvalidFormat
from icehouse.nix.excerpts import excerpt
from icehouse.nix.signing import PublicKey, SecretKey, Signature
from icehouse.rules.key_places import KeyCommand, KeyFile, KeyPlace

MAX_KEY_FILE_BYTES: Final = 1_000
RUN_SECONDS: Final = 60
"""How long a run may take, the time included that it waits for other runs."""

_RUNS_AT_ONCE: Final = 4
_TEXTS_A_RUN: Final = 500
_BYTES_A_RUN: Final = 4 * 1024 * 1024
_LINE_BYTES: Final = 512
_STDERR_BYTES: Final = 4_096
_PIECE_BYTES: Final = 65_536
_LOOK_SECONDS: Final = 0.1  # whether somebody still waits

_log = structlog.get_logger(__name__)


class _Failure(Exception):
    """Why a key does not sign, for the server's log; it may name what clients are not told."""


class OutsideKeys:
    """Signs with keys that are kept outside. A few commands run at once; others wait for their turn."""

    def __init__(self, *, run_seconds: float = RUN_SECONDS) -> None:
        self._run_seconds = run_seconds
        self._threads = ThreadPoolExecutor(_RUNS_AT_ONCE, thread_name_prefix="signing")

    async def sign(self, place: KeyPlace, key: PublicKey, texts: Sequence[bytes]) -> list[Signature]:
        """The signatures over *texts* by the key of that public half. Each was verified.

        Raises:
            CannotSign: they cannot be had now; the log says why.
        """
        try:
            match place:
                case KeyFile():
                    return await asyncio.to_thread(_sign_with_file, place, key, texts)
                case KeyCommand():
                    signatures: list[Signature] = []
                    for some in _runs(texts):
                        lines = await self._run(place, some)
                        signatures += await asyncio.to_thread(_parse_all, key, some, lines)
                    return signatures
        except _Failure as exc:
            _log.error("a signing key that is kept outside does not sign", key=key.key_name, reason=str(exc))
            raise CannotSign(
                f"signing key {key.key_name} does not sign now, and nothing was changed. The server's log says what is "
                "wrong with its file or command; until that is mended, another key can sign in its stead (icehouse key "
                "activate, then icehouse key retire)"
            ) from exc

    async def _run(self, command: KeyCommand, texts: Sequence[bytes]) -> list[bytes]:
        run = _Run(command.words[0], time.monotonic() + self._run_seconds, len(texts) * _LINE_BYTES)
        try:
            work = partial(run.carry_out, command.words, b"".join(text + b"\n" for text in texts))
            return await asyncio.get_running_loop().run_in_executor(self._threads, work)
        except asyncio.CancelledError:
            run.is_unwanted.set()
            raise


class _Run:
    """One run of a command, in a thread, so that its pipes are closed however it ends."""

    def __init__(self, name: str, deadline: float, limit: int) -> None:
        self.is_unwanted = threading.Event()
        self._name = name
        self._deadline = deadline
        self._limit = limit
        self._output = bytearray()
        self._complaint = bytearray()

    def carry_out(self, words: Sequence[str], text: bytes) -> list[bytes]:
        """Let it read *text*; the lines that it wrote.

        Raises:
            _Failure: it did not start, took too long, wrote too much, or failed.
        """
        try:
            process = Popen(words, stdin=PIPE, stdout=PIPE, stderr=PIPE, bufsize=0, start_new_session=True)
        except OSError as exc:
            raise _Failure(f"{self._name}: {exc.strerror}") from exc
        with process:
            try:
                self._talk(process, memoryview(text))
                status = process.wait(max(0, self._deadline - time.monotonic()))
            except (_Failure, TimeoutExpired) as exc:
                # Itself may have ended, and have left others that hold its output open.
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                if isinstance(exc, TimeoutExpired):
                    raise _Failure(f"{self._name} did not end in time") from exc
                raise
        if status != 0:
            complaint = self._complaint.decode(errors="replace").strip()
            raise _Failure(f"{self._name} ended with status {status}: {complaint}")
        return bytes(self._output).splitlines()

    def _talk(self, process: Popen[bytes], text: memoryview) -> None:
        """Write to it and read from it, until it closed its output."""
        assert process.stdin is not None  # noqa: S101  these are pipes
        assert process.stdout is not None  # noqa: S101
        assert process.stderr is not None  # noqa: S101
        stdin, stdout, stderr = process.stdin.fileno(), process.stdout.fileno(), process.stderr.fileno()
        with selectors.DefaultSelector() as selector:
            for pipe, event in ((stdin, EVENT_WRITE), (stdout, EVENT_READ), (stderr, EVENT_READ)):
                os.set_blocking(pipe, False)
                selector.register(pipe, event)
            open_pipes = {stdin, stdout, stderr}
            while {stdout, stderr} & open_pipes:
                if self.is_unwanted.is_set():
                    raise _Failure("nobody waits for it any more")
                if time.monotonic() >= self._deadline:
                    raise _Failure(f"{self._name}: no answer in time")
                for ready, _ in selector.select(_LOOK_SECONDS):
                    pipe = ready.fd
                    if pipe == stdin:
                        text = text[_write(pipe, text) :]
                        is_over = not text
                    else:
                        is_over = self._read(pipe, is_output=pipe == stdout)
                    if is_over:
                        selector.unregister(pipe)
                        open_pipes.remove(pipe)
                        if pipe == stdin:
                            process.stdin.close()

    def _read(self, pipe: int, *, is_output: bool) -> bool:
        """Take what there is. True: that was all."""
        piece = os.read(pipe, _PIECE_BYTES)
        if is_output:
            self._output += piece
            if len(self._output) > self._limit:
                raise _Failure(f"{self._name}: it wrote more than {self._limit} bytes")
        else:  # What is too much is dropped, so that it never waits for a reader.
            self._complaint += piece[: _STDERR_BYTES - len(self._complaint)]
        return not piece


def _write(pipe: int, text: memoryview) -> int:
    try:
        return os.write(pipe, text[:_PIECE_BYTES])
    except BrokenPipeError:  # It does not read. Its output, or how it ends, says whether that is wrong.
        return len(text)


def _runs(texts: Sequence[bytes]) -> Iterator[list[bytes]]:
    run: list[bytes] = []
    size = 0
    for text in texts:
        if run and (len(run) == _TEXTS_A_RUN or size + len(text) > _BYTES_A_RUN):
            yield run
            run, size = [], 0
        run.append(text)
        size += len(text)
    if run:
        yield run


def _parse_all(key: PublicKey, texts: Sequence[bytes], lines: Sequence[bytes]) -> list[Signature]:
    if len(lines) != len(texts):
        raise _Failure(f"{len(lines)} lines for {len(texts)} fingerprints")
    return [_parse(key, text, line) for text, line in zip(texts, lines, strict=True)]


def _parse(key: PublicKey, text: bytes, line: bytes) -> Signature:
    written = line.decode("ascii", "replace").strip()
    try:
        signature = Signature.parse(written if ":" in written else f"{key.key_name}:{written}")
    except InvalidFormat as exc:
        raise _Failure(str(exc)) from exc
    if not key.verify(text, signature):
        raise _Failure(f"{excerpt(written)} is no signature by {key.render()} over {excerpt(text.decode())}")
    return signature


def _sign_with_file(file: KeyFile, key: PublicKey, texts: Sequence[bytes]) -> list[Signature]:
    try:
        found = read_key_file(Path(file.path))
    except InvalidFormat as exc:
        raise _Failure(str(exc)) from exc
    if found.public_key != key:
        raise _Failure(f"{file.path}: it has the key {found.public_key.render()}, expected {key.render()}")
    return [found.sign(text) for text in texts]


def read_key_file(path: Path) -> SecretKey:
    """The key in a file. Blocks.

    Raises:
        InvalidFormat: it cannot be read, or is no key file of Nix's.
    """
    try:
        # Whoever opened a pipe would wait for its writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise InvalidFormat(f"{path}: it is no file")
            text = os.read(descriptor, MAX_KEY_FILE_BYTES + 1)
        finally:
            os.close(descriptor)
    except OSError as exc:
        raise InvalidFormat(f"{path}: {exc.strerror}") from exc
    if len(text) > MAX_KEY_FILE_BYTES:
        raise InvalidFormat(f"{path}: more than {MAX_KEY_FILE_BYTES} bytes, so it is no secret key")
    try:
        return SecretKey.parse(text.decode("ascii", "replace"))
    except InvalidFormat as exc:
        raise InvalidFormat(f"{path}: {exc}") from None

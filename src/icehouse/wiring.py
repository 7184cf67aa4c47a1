"""The only place where the server's concrete parts are chosen and joined."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import dataclasses
import gc
import multiprocessing
import os
import random
import secrets
import signal
import socket
import sys
import threading
import time
from collections.abc import AsyncGenerator, Callable, Generator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final

import msgspec
import uvicorn
import uvloop
from uvicorn.config import STARTUP_FAILURE
from uvicorn.supervisors import Multiprocess

from icehouse import __version__
from icehouse.api.server import ServerParameters
from icehouse.client.issuer_documents import issuer_documents
from icehouse.config import ServerSettings
from icehouse.db.serving import ServingQueries
from icehouse.errors import Conflict, InvalidFormat, NotFound
from icehouse.http.app import ROUTES, Server
from icehouse.http.connection import IDLE_SECONDS, Connection
from icehouse.http.description import ApiDescription
from icehouse.http.errors import STATUSES
from icehouse.http.front import find_client, parse_networks
from icehouse.http.hot import HotParts
from icehouse.http.metrics import Observed, ServerCounters
from icehouse.http.parts import ServerParts
from icehouse.log_output import configure_logging
from icehouse.rules.chunks import CHUNK_PARAMETERS
from icehouse.rules.packs import PACK_BYTES
from icehouse.rules.people import parse_role
from icehouse.rules.recipes import MAX_RECIPE_BYTES
from icehouse.services.access import Access, HotAccess
from icehouse.services.access_times import AccessTimes
from icehouse.services.activity import Activity
from icehouse.services.aliases import Aliases
from icehouse.services.audit import Audit
from icehouse.services.backup import Backups
from icehouse.services.caches import Caches
from icehouse.services.closure_sizes import ClosureSizes
from icehouse.services.collections import Collections
from icehouse.services.contents import Contents
from icehouse.services.differences import Differences
from icehouse.services.downloads import Downloads
from icehouse.services.exchange import Exchange
from icehouse.services.flushing import Settle, flush_regularly
from icehouse.services.forgetting import Forgetting
from icehouse.services.issuer_keys import IssuerKeyring
from icehouse.services.keys import Keys
from icehouse.services.live_pushes import LivePushes
from icehouse.services.live_streams import LiveStreams
from icehouse.services.logs import Logs
from icehouse.services.maintenance import Maintenance, MaintenancePlan
from icehouse.services.nar_copies import NarCopies
from icehouse.services.nar_files import NarFiles
from icehouse.services.nar_uploads import NarUploads
from icehouse.services.narinfo_uploads import NarinfoUploads
from icehouse.services.nars import MAX_NARS, NarRegistry
from icehouse.services.packs import MAX_IDENTITIES, PackReceiver
from icehouse.services.paths import Paths
from icehouse.services.people import People
from icehouse.services.pins import Pins
from icehouse.services.promote import Promotions
from icehouse.services.provider_logins import Provider, ProviderLogins
from icehouse.services.publish import MAX_HASH_PARTS, MAX_PATHS, Publisher
from icehouse.services.readiness import Readiness
from icehouse.services.realisations import Realisations
from icehouse.services.recent_chunks import RecentChunks
from icehouse.services.retention import Retentions
from icehouse.services.revocations import Revocations
from icehouse.services.sessions import Sessions
from icehouse.services.signing import Sealer, Signer
from icehouse.services.signing_passes import SigningPasses
from icehouse.services.start import DataFolder, open_databases, start
from icehouse.services.tokens import Tokens
from icehouse.services.traffic import TrafficCounts
from icehouse.services.trash import Trash
from icehouse.services.trust import Trust
from icehouse.services.verification_state import VerificationStates
from icehouse.services.verify_pass import Verification
from icehouse.services.workers import Workers
from icehouse.storage.local import LocalBlobStore
from icehouse.storage.timed import TimedBlobStore
from icehouse.web.app import Pages
from icehouse.web.parts import WebParts

WORKER_SETTINGS: Final = "ICEHOUSE_WORKER_SETTINGS"
"""The environment variable in which workers find the settings, as JSON."""

STOP_SECONDS: Final = 20
"""How long a worker may take to finish what is under way when the server stops."""

_BACKLOG: Final = 1024
_SILENT_SECONDS: Final = 30
"""How long a worker may not answer its parent before it is replaced. On a busy machine its start takes seconds."""
_SET_PARENT_DEATH_SIGNAL: Final = 1
_ARENA_MAX: Final = -8
_ANNOUNCE_SECONDS: Final = 0.01


def clock() -> int:
    """Seconds since the epoch."""
    return int(time.time())


def make_parameters(settings: ServerSettings) -> ServerParameters:
    """What the server tells clients that push."""
    return ServerParameters(
        version=__version__,
        public_url=settings.url,
        chunk_min_bytes=CHUNK_PARAMETERS.min_bytes,
        chunk_average_bytes=CHUNK_PARAMETERS.average_bytes,
        chunk_max_bytes=CHUNK_PARAMETERS.max_bytes,
        chunk_normalization=CHUNK_PARAMETERS.normalization,
        zstd_level=settings.zstd_level,
        pack_bytes=PACK_BYTES,
        max_hash_parts=MAX_HASH_PARTS,
        max_identities=MAX_IDENTITIES,
        max_recipe_bytes=MAX_RECIPE_BYTES,
        max_nars=MAX_NARS,
        max_paths=MAX_PATHS,
        max_nar_bytes=settings.max_nar_bytes,
    )


def create_app() -> Server:
    """The ASGI application of a worker process, which finds the settings in its environment."""
    _end_with_parent()
    _limit_arenas()
    settings = load_worker_settings(os.environ)
    configure_logging(settings.log_level, settings.log_format)
    server = make_server(settings)
    _set_aside_what_stays()
    return server


def _end_with_parent() -> None:
    """Have the kernel kill this worker when the process that started it dies, however it dies.

    Else it would keep the port and the data folder. What is stored is as safe as in any crash.

    Source: Linux, prctl(2), ``PR_SET_PDEATHSIG``.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGKILL)
    parent = multiprocessing.parent_process()
    if parent is not None and not parent.is_alive():
        raise SystemExit(1)  # it died before the kernel knew


def make_server(settings: ServerSettings) -> Server:
    """The ASGI application over a data folder that `icehouse.services.start` made ready."""
    return Server(partial(open_parts, settings))


@asynccontextmanager
async def open_parts(settings: ServerSettings) -> AsyncGenerator[tuple[ServerParts, HotParts, Pages]]:
    """Everything that requests are answered with, in the running event loop. Taken down in the opposite order."""
    folder = DataFolder(settings.data_dir)
    counters = ServerCounters()
    async with AsyncExitStack() as stack:
        database, access_database = open_databases(folder)
        stack.callback(access_database.close)
        stack.callback(database.close)
        reader = database.open_reader()
        stack.callback(reader.close)

        access = Access(database, clock=clock)
        access_times = AccessTimes(access_database)
        downloads = Downloads(access_database, clock, keep_days=settings.download_days)
        sessions = Sessions(database, access, clock=clock, draw=secrets.token_bytes)
        traffic = TrafficCounts(database, access_database, clock)
        for flush in (access_times.flush, downloads.flush, access.flush, sessions.flush, traffic.flush):
            await stack.enter_async_context(_in_background(partial(flush_regularly, flush)))

        async def flush_uses() -> None:
            await access_times.flush()
            await downloads.flush()

        blobs = TimedBlobStore(LocalBlobStore(settings.data_dir))
        workers = Workers()
        stack.callback(workers.close)
        recent = RecentChunks()
        nars = NarRegistry(database, blobs, workers, recent, clock, max_nar_bytes=settings.max_nar_bytes)
        stack.push_async_callback(nars.close)
        nar_files = NarFiles(database, reader, blobs)
        contents = Contents(database, nar_files, workers)
        sealer = Sealer(folder.secret.read_bytes())
        signer = Signer(database, sealer)
        signing_passes = SigningPasses(database, signer, workers, clock, draw=random.random)
        await stack.enter_async_context(_in_background(signing_passes.run))
        publisher = Publisher(database, blobs, workers, signer, clock, note_use=access_times.note)
        nar_uploads = NarUploads(
            database,
            blobs,
            workers,
            nars,
            clock,
            zstd_level=settings.zstd_level,
            max_nar_bytes=settings.max_nar_bytes,
        )
        child = (sys.executable, "-m", "icehouse.cli.collection_child", str(settings.data_dir))
        command = (*child, settings.log_level, settings.log_format)
        collections = Collections(database, command, flush_uses=access_times.flush)
        back_up = partial(Backups(folder, blobs, clock).back_up_if_due, keep=settings.keep_backups)
        maintenance = Maintenance(
            database,
            collections,
            clock,
            MaintenancePlan(
                settings.collect_seconds,
                back_up if settings.keep_backups else None,
                Forgetting(database, downloads, traffic, clock, download_days=settings.download_days).forget_if_due,
            ),
            draw=random.random,
        )
        await stack.enter_async_context(_in_background(maintenance.run))
        verification = Verification(database, blobs, clock, bytes_per_second=settings.verify_speed, draw=random.random)
        stack.callback(verification.close)
        await stack.enter_async_context(_in_background(verification.run))
        stack.callback(verification.end)
        documents = await stack.enter_async_context(issuer_documents())
        keyring = IssuerKeyring(documents, clock)
        provider = load_provider(settings)
        logins = (
            None
            if provider is None
            else ProviderLogins(provider, documents, keyring, sessions, public_url=settings.url, clock=clock)
        )
        parts = ServerParts(
            database=database,
            access=access,
            activity=Activity(database, LivePushes(clock), maintenance, collections, clock),
            streams=LiveStreams(),
            caches=Caches(database, blobs, sealer, public_url=settings.url, clock=clock, draw=secrets.token_bytes),
            keys=Keys(database, sealer, signer, clock=clock, draw=secrets.token_bytes, wake=signing_passes.wake),
            signing_passes=signing_passes,
            tokens=Tokens(database, clock=clock, draw=secrets.token_bytes),
            people=People(database, clock=clock),
            trust=Trust(database, public_url=settings.url, clock=clock),
            promotions=Promotions(database, publisher, NarCopies(database, blobs, workers, nars, clock), clock),
            revocations=Revocations(database, access_database, clock, flush_uses=flush_uses),
            exchange=Exchange(database, keyring, clock=clock, draw=secrets.token_bytes),
            packs=PackReceiver(database, blobs, workers, recent, clock),
            nars=nars,
            publisher=publisher,
            nar_uploads=nar_uploads,
            narinfo_uploads=NarinfoUploads(database, publisher),
            aliases=Aliases(database, nar_files, note_use=lambda path_id: access_times.note(path_id, clock())),
            downloads=downloads,
            contents=contents,
            pins=Pins(database, contents, clock=clock),
            differences=Differences(database, workers),
            collections=collections,
            trash=Trash(database, clock, note_use=access_times.note),
            retention=Retentions(database),
            verification=VerificationStates(database),
            paths=Paths(database, access_database, access_times, clock=clock),
            closure_sizes=ClosureSizes(database, workers),
            audit=Audit(database),
            logs=Logs(database, blobs, workers, clock),
            realisations=Realisations(database, clock),
            traffic=traffic,
            counters=counters,
            observed=Observed({"icehouse": database, "access": access_database}, blobs.counts, workers.counts),
            readiness=Readiness(database, blobs, workers),
            parameters=(parameters := make_parameters(settings)),
            description=ApiDescription(ROUTES, version=parameters.version, public_url=settings.url),
            clock=clock,
            trusted_proxies=settings.trusted_proxies,
            requests_per_second=settings.requests_per_second,
            failed_logins_per_minute=settings.failed_logins_per_minute,
        )
        hot = HotParts(
            queries=ServingQueries(reader),
            check_pull=HotAccess(access, reader, folder.database, clock=clock).check_pull,
            nars=nar_files,
            note_use=access_times.note,
            settle_first=partial(_settle_first, access_times, traffic),
            note_download=downloads.note,
            traffic_of=traffic.of,
            clock=clock,
            counters=counters,
            call_soon=asyncio.get_running_loop().call_soon,
            find_client=partial(find_client, trusted=parse_networks(settings.trusted_proxies)),
        )
        pages = Pages(
            WebParts(
                access=access,
                activity=parts.activity,
                streams=parts.streams,
                caches=parts.caches,
                keys=parts.keys,
                signing_passes=parts.signing_passes,
                trust=parts.trust,
                sessions=sessions,
                logins=logins,
                draw=secrets.token_bytes,
                tokens=parts.tokens,
                traffic=traffic,
                people=parts.people,
                audit=parts.audit,
                paths=parts.paths,
                closure_sizes=parts.closure_sizes,
                logs=parts.logs,
                contents=contents,
                pins=parts.pins,
                differences=parts.differences,
                trash=parts.trash,
                collections=collections,
                retention=parts.retention,
                verification=parts.verification,
                clock=clock,
                public_url=settings.url,
                version=parts.parameters.version,
                statuses=STATUSES,
                describe=lambda: parts.description.document,
            )
        )
        yield parts, hot, pages


def _settle_first(access_times: AccessTimes, traffic: TrafficCounts, settle: Settle) -> None:
    access_times.settle_first(settle)
    traffic.settle_first(settle)


def load_provider(settings: ServerSettings) -> Provider | None:
    """The provider by which people log in, if there is one.

    Raises:
        NotFound: the file with its secret is not there, or cannot be read.
        InvalidFormat: that file is empty.
    """
    if not settings.oidc_issuer:
        return None
    secret: str | None = None
    if settings.oidc_client_secret_file:
        file = settings.oidc_client_secret_file
        try:
            secret = Path(file).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as exc:
            raise NotFound(f"oidc_client_secret_file: {file} cannot be read: {exc}") from exc
        if not secret:
            raise InvalidFormat(f"oidc_client_secret_file: {file} is empty")
    return Provider(
        issuer=settings.oidc_issuer,
        client_id=settings.oidc_client_id,
        client_secret=secret,
        scopes=settings.oidc_scopes,
        groups_claim=settings.oidc_groups_claim,
        roles=tuple(parse_role(text) for text in settings.oidc_roles),
    )


@asynccontextmanager
async def _in_background(work: Callable[[], Any]) -> AsyncGenerator[None]:
    task = asyncio.ensure_future(work())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


@dataclasses.dataclass(frozen=True, slots=True)
class Listening:
    """What a server says once it listens."""

    url: str
    address: str
    """The URL without a proxy between; it has the port that was chosen."""
    data_dir: Path
    first_token: str | None = dataclasses.field(repr=False)
    """An administrator's token, at the first start on a data folder only."""


def serve(settings: ServerSettings, announce: Callable[[Listening], None]) -> None:
    """Serve until SIGTERM or SIGINT. *announce* is called, from another thread, once requests are answered.

    Migrations and the first token belong here, before there are workers.

    Raises:
        Conflict: another server uses the data folder or the port, or the folder belongs to a newer version.
        Corrupt: something in the data folder is damaged.
        OverQuota: the disk is full.
        Unavailable: the data folder cannot be used.
        SystemExit: the server ended by itself, or its workers cannot start; the log says why.
    """
    configure_logging(settings.log_level, settings.log_format)
    listener = listen(settings.host, settings.port)
    settings = dataclasses.replace(settings, port=listener.getsockname()[1])
    folder = DataFolder(settings.data_dir)
    with listener, start(folder, clock=clock, draw=secrets.token_bytes) as started:
        first_token = None if started.first_token is None else str(started.first_token)
        listening = Listening(settings.url, settings.address, settings.data_dir.absolute(), first_token)
        with _announced_once_listening(settings, lambda: announce(listening)):
            if settings.workers == 1:
                _serve_in_this_process(settings, listener)
            else:
                _serve_in_workers(settings, listener)


def _serve_in_this_process(settings: ServerSettings, listener: socket.socket) -> None:
    """Serve in one process: half of the memory of a worker and its parent, and nothing that could be orphaned."""
    _limit_arenas()
    server = _Server(_configure_server(settings, make_server(settings)))
    _set_aside_what_stays()

    async def run() -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, server.handle_exit, number, None)
        await server.serve([listener])
        if not server.should_exit:
            raise SystemExit(1)  # it ended by itself, and the log says why

    uvloop.run(run())


class _Server(uvicorn.Server):
    """A server whose process lives on after it has stopped: uvicorn's own would end it by the signal that came."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        yield


def _serve_in_workers(settings: ServerSettings, listener: socket.socket) -> None:
    os.environ[WORKER_SETTINGS] = render_worker_settings(settings)
    config = _configure_server(settings, "icehouse.wiring:create_app")
    supervisor = Multiprocess(config, sockets=[listener])
    supervisor.run()
    if any(worker.exitcode == STARTUP_FAILURE for worker in supervisor.processes):
        raise SystemExit(1)  # the log says why


def _configure_server(settings: ServerSettings, app: Server | str) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        factory=isinstance(app, str),
        http=Connection,
        ws="none",
        loop="uvloop",
        interface="asgi3",
        lifespan="on",
        workers=settings.workers,
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        backlog=_BACKLOG,
        timeout_keep_alive=IDLE_SECONDS,
        timeout_graceful_shutdown=STOP_SECONDS,
        timeout_worker_healthcheck=_SILENT_SECONDS,
    )


def _limit_arenas() -> None:
    """Have threads share two heaps of the C library, instead of one each that keeps what it once needed.

    Measured: a server that took 200 MB and sent it 16 times at once peaks at 268 MB instead of 345.
    Source: mallopt(3), ``M_ARENA_MAX`` of the GNU C library; others do not have it.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_ARENA_MAX, 2)


_COLLECT_AFTER: Final = 700
"""New objects after which cycles among them are looked for: Python's own number."""


def _set_aside_what_stays() -> None:
    """Have the garbage collector leave alone what is there already: modules, classes, routes.

    Measured: of the 53 ms that a full collection stopped a server for, nothing is left. What comes is looked through as
    often as Python does by itself; the command that became this server did so seldom.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_COLLECT_AFTER)


def listen(host: str, port: int) -> socket.socket:
    """A socket that holds *port* of *host*, or with 0 any port of it that is free. It takes connections later on.

    Raises:
        Conflict: something else listens there, or nothing can listen on *host*.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
        except OSError:
            listener.close()
            raise
    except OSError as exc:
        raise Conflict(f"cannot listen on {host} port {port}: {exc.strerror or exc}") from exc
    return listener


@contextlib.contextmanager
def _announced_once_listening(settings: ServerSettings, announce: Callable[[], None]) -> Generator[None]:
    """Call *announce* when the port answers: only the workers know when they listen."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.host, settings.host)  # noqa: S104  compared, not used
    has_ended = threading.Event()

    def wait() -> None:
        while not has_ended.wait(_ANNOUNCE_SECONDS):
            with contextlib.suppress(OSError), socket.create_connection((host, settings.port), timeout=1):
                announce()
                return

    waiting = threading.Thread(target=wait, name="announce", daemon=True)
    waiting.start()
    try:
        yield
    finally:
        has_ended.set()
        waiting.join()


def render_worker_settings(settings: ServerSettings) -> str:
    """The settings for `load_worker_settings`."""
    values = {field.name: getattr(settings, field.name) for field in dataclasses.fields(settings)}
    return msgspec.json.encode(values | {"data_dir": str(settings.data_dir.absolute())}).decode()


def load_worker_settings(environment: Mapping[str, str]) -> ServerSettings:
    """The settings that the parent process left for its workers."""
    values: dict[str, Any] = msgspec.json.decode(environment[WORKER_SETTINGS])
    values["data_dir"] = Path(values["data_dir"])
    for name in ("trusted_proxies", "oidc_roles"):
        values[name] = tuple(values[name])
    return ServerSettings(**values)

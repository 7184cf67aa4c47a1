"""What the server counts, as plain integers, and how Prometheus reads it.

A request costs one call and a few additions here; the text format is made only when somebody asks for it.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector

from icehouse.api.collections import PastCollection
from icehouse.db.engine import Database
from icehouse.db.sizes import StoredSizes
from icehouse.rules.durations import BUCKET_SECONDS, Durations, QueueCounts
from icehouse.services.upload_slots import UploadSlots
from icehouse.storage.timed import StorageCounts

KEPT_ROUTES: Final = ("narinfo", "nar")
"""Those of which answers are kept in memory."""


class RouteCounters:
    """What one route has done since the process started. Used by the event loop's thread alone."""

    __slots__ = ("buckets", "bytes_received", "bytes_sent", "from_memory", "route", "seconds", "statuses")

    def __init__(self, route: str) -> None:
        self.route = route
        self.statuses: dict[int, int] = {}
        self.buckets = [0] * (len(BUCKET_SECONDS) + 1)
        self.seconds = 0.0
        self.bytes_sent = 0
        self.bytes_received = 0
        self.from_memory = 0
        """Answers that were kept in memory, of the routes that keep any."""

    def count(self, status: int, seconds: float, bytes_sent: int) -> None:
        """Note one answered request."""
        statuses = self.statuses
        statuses[status] = statuses.get(status, 0) + 1
        self.buckets[bisect_left(BUCKET_SECONDS, seconds)] += 1
        self.seconds += seconds
        self.bytes_sent += bytes_sent


class ServerCounters:
    """The counters of all routes. A route's own are made once and kept by whoever counts in them."""

    def __init__(self) -> None:
        self._routes: dict[str, RouteCounters] = {}
        for name in ("narinfo", "nar", "nix-cache-info", "unknown"):
            self.route(name).statuses.update({200: 0, 404: 0, 503: 0})

    def add_routes(self, names: Iterable[str]) -> None:
        """Have routes counted from the start: with zero, for as long as nobody asks."""
        for name in names:
            self.route(name).statuses.update({200: 0, 500: 0})

    def route(self, name: str) -> RouteCounters:
        """The counters of the route called *name*, which is one of few: it becomes the value of a label."""
        return self._routes.setdefault(name, RouteCounters(name))

    def __iter__(self) -> Iterator[RouteCounters]:
        """The counters of every route, in the order in which they were first used."""
        return iter(self._routes.values())


@dataclass(frozen=True, slots=True)
class Observed:
    """What counts by itself in this process. Any part may be read at any time."""

    databases: Mapping[str, Database]
    storage: StorageCounts
    workers: QueueCounts


@dataclass(frozen=True, slots=True, eq=False)
class Snapshot(Collector):
    """All that is told of one moment."""

    counters: ServerCounters
    observed: Observed
    uploads: Mapping[str, UploadSlots]
    """By what is uploaded."""
    sizes: StoredSizes
    last_collection: PastCollection | None

    def collect(self) -> Iterable[Metric]:
        """The metrics, in the order of the guide."""
        yield from _request_metrics(self.counters)
        yield from _size_metrics(self.sizes)
        yield from _verification_metrics(self.sizes)
        yield from _collection_metrics(self.last_collection)
        yield from _latency_metrics(self.observed)
        yield from _queue_metrics(self.observed, self.uploads)


def render_metrics(snapshot: Snapshot) -> bytes:
    """All metrics of this process, and the sizes of what is stored, in Prometheus' text format."""
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    GCCollector(registry=registry)
    registry.register(snapshot)
    return generate_latest(registry)


def _request_metrics(counters: ServerCounters) -> Iterable[Metric]:
    requests = CounterMetricFamily(
        "icehouse_http_requests", "Requests answered, by route and status.", labels=["route", "status"]
    )
    durations = HistogramMetricFamily(
        "icehouse_http_request_duration_seconds",
        "Time from a request's headers to the last byte of its answer.",
        labels=["route"],
    )
    sent = CounterMetricFamily("icehouse_http_sent_bytes", "Bytes of answers' bodies sent.", labels=["route"])
    received = CounterMetricFamily("icehouse_http_received_bytes", "Bytes of packs received.", labels=["route"])
    for route in counters:
        for status, count in route.statuses.items():
            requests.add_metric([route.route, str(status)], count)
        # Of the many routes that nobody asks for, the histograms would be most of the text.
        if any(route.buckets) or route.route in KEPT_ROUTES:
            durations.add_metric([route.route], _cumulate(route.buckets), route.seconds)
        sent.add_metric([route.route], route.bytes_sent)
        received.add_metric([route.route], route.bytes_received)
    yield from (requests, durations, sent, received)
    kept = CounterMetricFamily(
        "icehouse_http_kept_answers", "Requests answered from memory, without the database.", labels=["route"]
    )
    for name in KEPT_ROUTES:
        kept.add_metric([name], counters.route(name).from_memory)
    yield kept
    narinfos = counters.route("narinfo").statuses
    yield CounterMetricFamily(
        "icehouse_narinfo_hits", "Requests for a narinfo that was there.", value=narinfos.get(200, 0)
    )
    yield CounterMetricFamily(
        "icehouse_narinfo_misses", "Requests for a narinfo that was not there.", value=narinfos.get(404, 0)
    )


def _cumulate(buckets: Sequence[int]) -> list[tuple[str, float]]:
    labels = [*(str(seconds) for seconds in BUCKET_SECONDS), "+Inf"]
    total = 0
    cumulated: list[tuple[str, float]] = []
    for label, count in zip(labels, buckets, strict=True):
        total += count
        cumulated.append((label, total))
    return cumulated


def _size_metrics(sizes: StoredSizes) -> Iterable[Metric]:
    paths = GaugeMetricFamily("icehouse_cache_paths", "Visible paths of a cache.", labels=["cache"])
    hidden = GaugeMetricFamily("icehouse_cache_hidden_paths", "Paths of a cache in its trash.", labels=["cache"])
    nar_bytes = GaugeMetricFamily(
        "icehouse_cache_nar_bytes", "Bytes of the NARs of a cache's visible paths, unpacked.", labels=["cache"]
    )
    stored_bytes = GaugeMetricFamily(
        "icehouse_cache_stored_bytes",
        "Stored bytes of the distinct chunks of a cache's paths: exact after a collection, else too high.",
        labels=["cache"],
    )
    ratio = GaugeMetricFamily(
        "icehouse_cache_dedup_ratio",
        "Bytes of NARs for each stored byte of a cache: what compression and deduplication save.",
        labels=["cache"],
    )
    last_push = GaugeMetricFamily(
        "icehouse_cache_last_push_timestamp_seconds",
        "When a path was added to a cache last, in seconds since the epoch; 0: never yet.",
        labels=["cache"],
    )
    for cache in sizes.caches:
        paths.add_metric([cache.cache_name], cache.visible_paths)
        hidden.add_metric([cache.cache_name], cache.hidden_paths)
        nar_bytes.add_metric([cache.cache_name], cache.nar_bytes)
        stored_bytes.add_metric([cache.cache_name], cache.stored_bytes)
        ratio.add_metric([cache.cache_name], cache.nar_bytes / cache.stored_bytes if cache.stored_bytes else 1)
        last_push.add_metric([cache.cache_name], cache.last_push_at or 0)
    packs = GaugeMetricFamily("icehouse_domain_packs", "Packs of a domain.", labels=["domain"])
    pack_bytes = GaugeMetricFamily("icehouse_domain_pack_bytes", "Bytes of a domain's packs.", labels=["domain"])
    chunks = GaugeMetricFamily("icehouse_domain_chunks", "Chunks of a domain.", labels=["domain"])
    for domain in sizes.domains:
        packs.add_metric([str(domain.domain_id)], domain.packs)
        pack_bytes.add_metric([str(domain.domain_id)], domain.pack_bytes)
        chunks.add_metric([str(domain.domain_id)], domain.chunks)
    return (paths, hidden, nar_bytes, stored_bytes, ratio, last_push, packs, pack_bytes, chunks)


def _verification_metrics(sizes: StoredSizes) -> Iterable[Metric]:
    damaged = GaugeMetricFamily(
        "icehouse_cache_damaged_paths", "Paths of a cache that damage hides, until they are healed.", labels=["cache"]
    )
    for cache in sizes.caches:
        damaged.add_metric([cache.cache_name], cache.damaged_paths)
    read_bytes = GaugeMetricFamily(
        "icehouse_verification_read_bytes", "Bytes that the verification under way has read back."
    )
    findings = GaugeMetricFamily("icehouse_verification_findings", "What the verification under way has found wrong.")
    completed_at = GaugeMetricFamily(
        "icehouse_verification_last_completed_seconds",
        "When everything was verified last, in seconds since the epoch; 0: never yet.",
    )
    state = sizes.verification
    read_bytes.add_metric([], 0 if state is None else state.read_bytes)
    findings.add_metric([], 0 if state is None else state.findings)
    completed_at.add_metric([], 0 if state is None else state.completed_at or 0)
    return (damaged, read_bytes, findings, completed_at)


def _collection_metrics(last: PastCollection | None) -> Iterable[Metric]:
    marks = [] if last is None else last.marks
    sweeps = [] if last is None else last.sweeps
    for name, text, value in (
        (
            "completed_timestamp_seconds",
            "When a collection ended last, in seconds since the epoch; 0: never yet.",
            0 if last is None else last.ended_at,
        ),
        ("duration_seconds", "How long it took.", 0 if last is None else last.ended_at - last.began_at),
        ("hidden_paths", "Paths that it put into the trash.", sum(mark.hidden for mark in marks)),
        ("purged_paths", "Paths that it removed from the trash.", sum(sweep.purged_paths for sweep in sweeps)),
        (
            "deleted_bytes",
            "Bytes that it gave back to the disk.",
            sum(sweep.deleted_bytes + sweep.stray_bytes for sweep in sweeps),
        ),
    ):
        yield GaugeMetricFamily(f"icehouse_collection_last_{name}", text, value=value)


def _latency_metrics(observed: Observed) -> Iterable[Metric]:
    transactions = HistogramMetricFamily(
        "icehouse_database_transaction_duration_seconds",
        "Time that a transaction took, its commit included.",
        labels=["database", "operation"],
    )
    waits = HistogramMetricFamily(
        "icehouse_database_wait_duration_seconds",
        "Time that a transaction waited for its turn: for the one writer, or a reader.",
        labels=["database", "operation"],
    )
    for name, database in observed.databases.items():
        for operation, counts in (("read", database.reads), ("write", database.writes)):
            _add_durations(transactions, [name, operation], counts.works)
            _add_durations(waits, [name, operation], counts.waits)
    storage = HistogramMetricFamily(
        "icehouse_storage_operation_duration_seconds",
        "Time that it took to read a part of a blob, to make one durable or to delete one.",
        labels=["operation"],
    )
    errors = CounterMetricFamily(
        "icehouse_storage_errors", "Operations on blobs that the storage failed.", labels=["operation"]
    )
    for operation, durations in observed.storage.durations.items():
        _add_durations(storage, [operation], durations)
        errors.add_metric([operation], observed.storage.errors[operation])
    works = HistogramMetricFamily(
        "icehouse_worker_duration_seconds", "Time that hashing, proving, decoding or writing took in a thread."
    )
    _add_durations(works, [], observed.workers.works)
    return (transactions, waits, storage, errors, works)


def _queue_metrics(observed: Observed, all_slots: Mapping[str, UploadSlots]) -> Iterable[Metric]:
    waiting = GaugeMetricFamily(
        "icehouse_database_waiting", "Transactions that wait for their turn.", labels=["database", "operation"]
    )
    for name, database in observed.databases.items():
        waiting.add_metric([name, "read"], database.reads.waiting)
        waiting.add_metric([name, "write"], database.writes.waiting)
    works = GaugeMetricFamily(
        "icehouse_workers_waiting", "Works that wait for a thread.", value=observed.workers.waiting
    )
    uploads = GaugeMetricFamily("icehouse_uploads_open", "Uploads under way, waiting ones too.", labels=["kind"])
    for kind, slots in all_slots.items():
        uploads.add_metric([kind], slots.taken)
    return (waiting, works, uploads)


def _add_durations(family: HistogramMetricFamily, labels: list[str], durations: Durations) -> None:
    buckets, seconds = durations.read()
    family.add_metric(labels, _cumulate(buckets), seconds)

"""What the server counts, as plain integers, and how Prometheus reads it.

A request costs one call and a few additions here; the text format is made only when somebody asks for it.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator
from typing import Final

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector

from icehouse.db.sizes import StoredSizes

BUCKET_SECONDS: Final = (0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.01, 0.05, 0.25, 1.0, 5.0, 30.0, 120.0)
"""Upper ends of the buckets of durations: fine where narinfos are, coarse where uploads and large NARs are."""


class RouteCounters:
    """What one route has done since the process started. Used by the event loop's thread alone."""

    __slots__ = ("buckets", "bytes_received", "bytes_sent", "route", "seconds", "statuses")

    def __init__(self, route: str) -> None:
        self.route = route
        self.statuses: dict[int, int] = {}
        self.buckets = [0] * (len(BUCKET_SECONDS) + 1)
        self.seconds = 0.0
        self.bytes_sent = 0
        self.bytes_received = 0

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

    def route(self, name: str) -> RouteCounters:
        """The counters of the route called *name*, which is one of few: it becomes the value of a label."""
        return self._routes.setdefault(name, RouteCounters(name))

    def __iter__(self) -> Iterator[RouteCounters]:
        """The counters of every route, in the order in which they were first used."""
        return iter(self._routes.values())


class _Snapshot(Collector):
    def __init__(self, counters: ServerCounters, sizes: StoredSizes) -> None:
        self._counters = counters
        self._sizes = sizes

    def collect(self) -> Iterable[Metric]:
        yield from _request_metrics(self._counters)
        yield from _size_metrics(self._sizes)
        yield from _verification_metrics(self._sizes)


def render_metrics(counters: ServerCounters, sizes: StoredSizes) -> bytes:
    """All metrics of this process, and the sizes of what is stored, in Prometheus' text format."""
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    GCCollector(registry=registry)
    registry.register(_Snapshot(counters, sizes))
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
        durations.add_metric([route.route], _cumulate(route.buckets), route.seconds)
        sent.add_metric([route.route], route.bytes_sent)
        received.add_metric([route.route], route.bytes_received)
    return (requests, durations, sent, received)


def _cumulate(buckets: list[int]) -> list[tuple[str, float]]:
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
    for cache in sizes.caches:
        paths.add_metric([cache.cache_name], cache.visible_paths)
        hidden.add_metric([cache.cache_name], cache.hidden_paths)
        nar_bytes.add_metric([cache.cache_name], cache.nar_bytes)
    packs = GaugeMetricFamily("icehouse_domain_packs", "Packs of a domain.", labels=["domain"])
    pack_bytes = GaugeMetricFamily("icehouse_domain_pack_bytes", "Bytes of a domain's packs.", labels=["domain"])
    for domain in sizes.domains:
        packs.add_metric([str(domain.domain_id)], domain.packs)
        pack_bytes.add_metric([str(domain.domain_id)], domain.pack_bytes)
    return (paths, hidden, nar_bytes, packs, pack_bytes)


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

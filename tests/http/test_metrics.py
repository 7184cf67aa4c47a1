from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from icehouse.api.collection import SweepReport
from icehouse.api.collections import MarkSummary, PastCollection
from icehouse.db.sizes import CacheSizes, DomainSizes, StoredSizes
from icehouse.db.verification import PassState
from icehouse.http.metrics import Observed, ServerCounters, Snapshot, render_metrics
from icehouse.rules.durations import BUCKET_SECONDS, QueueCounts
from icehouse.services.upload_slots import UploadSlots
from icehouse.storage.timed import StorageCounts

NOTHING = StoredSizes((), ())


def samples(
    counters: ServerCounters, sizes: StoredSizes = NOTHING, last_collection: PastCollection | None = None
) -> dict[tuple[str, ...], float]:
    observed = Observed({}, StorageCounts(), QueueCounts())
    slots = {"packs": UploadSlots(2, of_one_token=1)}
    text = render_metrics(Snapshot(counters, observed, slots, sizes, last_collection)).decode()
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


@given(st.lists(st.floats(0, 1000), max_size=20))
def test_a_bucket_counts_all_durations_up_to_its_end(durations: list[float]) -> None:
    counters = ServerCounters()
    for seconds in durations:
        counters.route("nar").count(200, seconds, 1)
    found = samples(counters)
    for end in BUCKET_SECONDS:
        bucket = found["icehouse_http_request_duration_seconds_bucket", str(end), "nar"]
        assert bucket == sum(seconds <= end for seconds in durations)
    assert found["icehouse_http_request_duration_seconds_count", "nar"] == len(durations)


def test_statuses_and_bytes_are_added_up_by_route() -> None:
    counters = ServerCounters()
    counters.route("nar").count(200, 0.1, 5)
    counters.route("nar").count(206, 0.1, 7)
    counters.route("nar").count(206, 0.1, 7)
    found = samples(counters)
    assert found["icehouse_http_requests_total", "nar", "206"] == 2
    assert found["icehouse_http_sent_bytes_total", "nar"] == 19


def test_sizes_are_told_by_cache_and_domain() -> None:
    state = PassState("nars", 0, 5, 100, read_bytes=7, findings=2, completed_at=90)
    found = samples(
        ServerCounters(), StoredSizes((CacheSizes("c", 3, 1, 99, 1, 33, 7),), (DomainSizes(2, 4, 55, 6),), state)
    )
    assert found["icehouse_cache_paths", "c"] == 3
    assert found["icehouse_cache_hidden_paths", "c"] == 1
    assert found["icehouse_cache_nar_bytes", "c"] == 99
    assert found["icehouse_cache_damaged_paths", "c"] == 1
    assert found["icehouse_verification_read_bytes",] == 7
    assert found["icehouse_verification_findings",] == 2
    assert found["icehouse_verification_last_completed_seconds",] == 90
    assert found["icehouse_domain_packs", "2"] == 4
    assert found["icehouse_cache_stored_bytes", "c"] == 33
    assert found["icehouse_cache_dedup_ratio", "c"] == 3
    assert found["icehouse_cache_last_push_timestamp_seconds", "c"] == 7
    assert found["icehouse_domain_pack_bytes", "2"] == 55
    assert found["icehouse_domain_chunks", "2"] == 6


def test_hits_misses_and_what_came_from_memory_are_told() -> None:
    counters = ServerCounters()
    for status in (200, 200, 404, 401):
        counters.route("narinfo").count(status, 0.1, 5)
    counters.route("narinfo").from_memory = 2
    found = samples(counters)
    assert found["icehouse_narinfo_hits_total",] == 2
    assert found["icehouse_narinfo_misses_total",] == 1
    assert found["icehouse_http_kept_answers_total", "narinfo"] == 2


def test_counters_are_there_from_the_start() -> None:
    counters = ServerCounters()
    counters.add_routes(["/api/v1/caches"])
    found = samples(counters)
    for name in (
        ("icehouse_http_requests_total", "narinfo", "404"),
        ("icehouse_http_requests_total", "/api/v1/caches", "500"),
        ("icehouse_http_request_duration_seconds_count", "nar"),
        ("icehouse_http_sent_bytes_total", "/api/v1/caches"),
        ("icehouse_narinfo_misses_total",),
        ("icehouse_storage_operation_duration_seconds_count", "write"),
        ("icehouse_storage_errors_total", "read"),
        ("icehouse_collection_last_completed_timestamp_seconds",),
        ("icehouse_uploads_open", "packs"),
    ):
        assert found[name] == 0, name


def test_the_last_collection_is_summed_over_caches_and_domains() -> None:
    mark = MarkSummary(cache="c", hidden=3, pinned_paths=0, stored_bytes_before=0, stored_bytes_after=0)
    sweep = SweepReport(
        domain=1,
        purged_paths=5,
        purged_nars=0,
        condemned_packs=0,
        condemned_bytes=0,
        lifted_packs=0,
        deleted_packs=1,
        deleted_bytes=100,
        compacted_packs=0,
        compacted_bytes=0,
        deleted_strays=1,
        stray_bytes=11,
    )
    last = PastCollection(
        id=1, cache=None, began_at=100, ended_at=130, started_by="x", marks=[mark, mark], sweeps=[sweep]
    )
    found = samples(ServerCounters(), last_collection=last)
    told = {name: value for (name, *_), value in found.items() if name.startswith("icehouse_collection_last_")}
    assert told == {
        "icehouse_collection_last_completed_timestamp_seconds": 130,
        "icehouse_collection_last_duration_seconds": 30,
        "icehouse_collection_last_hidden_paths": 6,
        "icehouse_collection_last_purged_paths": 5,
        "icehouse_collection_last_deleted_bytes": 111,
    }

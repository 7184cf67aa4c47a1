from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from icehouse.db.sizes import CacheSizes, DomainSizes, StoredSizes
from icehouse.db.verification import PassState
from icehouse.http.metrics import BUCKET_SECONDS, ServerCounters, render_metrics

NOTHING = StoredSizes((), ())


def samples(counters: ServerCounters, sizes: StoredSizes = NOTHING) -> dict[tuple[str, ...], float]:
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(render_metrics(counters, sizes).decode())
        for sample in family.samples
    }


@given(st.lists(st.floats(0, 1000), max_size=20))
def test_a_bucket_counts_all_durations_up_to_its_end(durations: list[float]) -> None:
    counters = ServerCounters()
    for seconds in durations:
        counters.route("r").count(200, seconds, 1)
    counters.route("r")
    found = samples(counters)
    for end in BUCKET_SECONDS:
        bucket = found["icehouse_http_request_duration_seconds_bucket", str(end), "r"]
        assert bucket == sum(seconds <= end for seconds in durations)
    assert found["icehouse_http_request_duration_seconds_count", "r"] == len(durations)


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
    found = samples(ServerCounters(), StoredSizes((CacheSizes("c", 3, 1, 99, 1),), (DomainSizes(2, 4, 55),), state))
    assert found["icehouse_cache_paths", "c"] == 3
    assert found["icehouse_cache_hidden_paths", "c"] == 1
    assert found["icehouse_cache_nar_bytes", "c"] == 99
    assert found["icehouse_cache_damaged_paths", "c"] == 1
    assert found["icehouse_verification_read_bytes",] == 7
    assert found["icehouse_verification_findings",] == 2
    assert found["icehouse_verification_last_completed_seconds",] == 90
    assert found["icehouse_domain_packs", "2"] == 4
    assert found["icehouse_domain_pack_bytes", "2"] == 55

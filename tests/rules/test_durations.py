from hypothesis import given
from hypothesis import strategies as st

from icehouse.rules.durations import BUCKET_SECONDS, Durations, QueueCounts


@given(st.lists(st.floats(0, 1000) | st.sampled_from(BUCKET_SECONDS), max_size=20))
def test_each_duration_is_in_the_first_bucket_that_it_fits_in(seconds: list[float]) -> None:
    durations = Durations()
    for each in seconds:
        durations.add(each)
    buckets, total = durations.read()
    for number, end in enumerate(BUCKET_SECONDS):
        assert sum(buckets[: number + 1]) == sum(each <= end for each in seconds)
    assert sum(buckets) == len(seconds)
    assert abs(total - sum(seconds)) < 1e-6


def test_what_began_and_what_was_given_up_waits_no_longer() -> None:
    counts = QueueCounts()
    for _ in range(3):
        counts.enter()
    counts.begin(0.5)
    counts.give_up()
    assert counts.waiting == 1
    assert counts.waits.read() == ((0,) * 9 + (1,) + (0,) * 4, 0.5)

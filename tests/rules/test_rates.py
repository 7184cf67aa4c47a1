from icehouse.rules.rates import Buckets


def test_bucket_gives_its_burst_and_then_its_rate() -> None:
    buckets = Buckets(per_second=2, burst=3)
    assert [buckets.take("a", 0) for _ in range(5)] == [0, 0, 0, 1, 1]
    assert [buckets.take("a", 0.5) for _ in range(2)] == [0, 1]
    assert [buckets.take("a", 100) for _ in range(4)] == [0, 0, 0, 1]


def test_slow_bucket_says_how_long_to_wait() -> None:
    buckets = Buckets(per_second=0.1, burst=1)
    assert (buckets.take("a", 0), buckets.take("a", 0), buckets.take("a", 4)) == (0, 10, 6)
    assert (buckets.seconds_until("a", 9), buckets.seconds_until("a", 10), buckets.take("a", 10)) == (1, 0, 0)


def test_keys_do_not_share() -> None:
    buckets = Buckets(per_second=1, burst=1)
    assert [buckets.take(key, 0) for key in "aabb"] == [0, 1, 0, 1]


def test_memory_is_bounded_and_the_longest_unused_key_is_forgotten() -> None:
    buckets = Buckets(per_second=1, burst=1, max_keys=10)
    for key in range(1_000):
        assert buckets.take(key, 0) == 0
    assert len(buckets) == 10
    assert (buckets.take(999, 0), buckets.take(0, 0)) == (1, 0)

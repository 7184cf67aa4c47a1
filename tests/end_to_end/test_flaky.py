"""Stock Nix of each version pulls through a proxy that breaks things, at its default settings."""

from pathlib import Path

import pytest

from tests.end_to_end.conftest import Published
from tests.end_to_end.flaky_proxy import Exchange, Fault, FlakyProxy, Script, in_turn
from tests.end_to_end.nix_clients import NixClient

pytestmark = pytest.mark.end_to_end

NAR = r"^GET .*\.nar\.zst$"
NARINFO = r"^GET .*\.narinfo$"
PART = 700_000


def pull_large(reader: NixClient, published: Published, script: Script) -> list[Exchange]:
    """Pull the large path through the proxy, which must succeed; all requests, in order."""
    with FlakyProxy(published.server.port, script) as proxy:
        reader.use_cache(f"http://127.0.0.1:{proxy.port}/{Path(published.url).name}", published.key)
        reader.pull(published.large)
    assert reader.nar_hash_of(published.large) == published.pusher.nar_hash_of(published.large)
    assert reader.dump(published.large) == published.pusher.dump(published.large)
    return proxy.exchanges


def nars_of(exchanges: list[Exchange]) -> list[Exchange]:
    return [exchange for exchange in exchanges if exchange.path.endswith(".nar.zst")]


def file_size(published: Published, reader: NixClient) -> int:
    """The bytes of the large path's NAR as it is served."""
    head = reader.run("curl", "--silent", "--fail", f"{published.url}/{Path(published.large).name[:32]}.narinfo")
    return next(int(line.split()[1]) for line in head.splitlines() if line.startswith("FileSize: "))


@pytest.mark.column("cut 4 times")
def test_a_download_cut_four_times_is_resumed_where_it_was_cut(reader: NixClient, published: Published) -> None:
    cuts = [PART, 1, PART - 1, 2 * PART]
    nars = nars_of(pull_large(reader, published, in_turn(NAR, [Fault(cut_response_after=cut) for cut in cuts])))
    starts = [sum(cuts[:number]) for number in range(len(cuts) + 1)]
    assert [nar.range for nar in nars] == [None, *(f"bytes={start}-" for start in starts[1:])]
    assert [nar.status for nar in nars] == [200, 206, 206, 206, 206]
    assert sum(nar.response_bytes for nar in nars) == file_size(published, reader)  # no byte came twice


@pytest.mark.column("cut at 0")
def test_a_download_cut_before_its_first_byte_starts_again(reader: NixClient, published: Published) -> None:
    nars = nars_of(pull_large(reader, published, in_turn(NAR, [Fault(cut_response_after=0)])))
    assert [(nar.range, nar.response_bytes > 0) for nar in nars] == [(None, False), (None, True)]


@pytest.mark.column("NAR 503")
def test_a_download_is_resumed_after_a_503_that_offers_ranges(reader: NixClient, published: Published) -> None:
    # Nix goes by the newest answer: one that does not offer ranges ends a download of which some bytes were there.
    faults = [Fault(cut_response_after=PART), Fault(status=503, headers=(("accept-ranges", "bytes"),))]
    nars = nars_of(pull_large(reader, published, in_turn(NAR, faults)))
    rest = f"bytes={PART}-"
    assert [(nar.status, nar.range) for nar in nars] == [(200, None), (503, rest), (206, rest)]


@pytest.mark.column("narinfo 5xx")
def test_a_narinfo_is_asked_again_after_faults_of_the_server(reader: NixClient, published: Published) -> None:
    faults = [Fault(status=500), Fault(status=502)]
    exchanges = pull_large(reader, published, in_turn(NARINFO, faults))
    asked = [exchange.status for exchange in exchanges if exchange.path.endswith(".narinfo")]
    assert asked == [500, 502, 200]


@pytest.mark.column("NAR 429")
@pytest.mark.parametrize("line", ["2.8", "2.26", pytest.param("2.34", marks=pytest.mark.long)])
def test_a_download_is_tried_again_after_a_429(reader: NixClient, published: Published) -> None:
    # 2.29 to 2.34 wait a minute, whatever Retry-After says; older ones a quarter of a second.
    fault = Fault(status=429, headers=(("retry-after", "1"),))
    nars = nars_of(pull_large(reader, published, in_turn(NAR, [fault])))
    assert [nar.status for nar in nars] == [429, 200]


@pytest.mark.column("slow")
def test_slow_answers_are_waited_for(reader: NixClient, published: Published) -> None:
    exchanges = pull_large(reader, published, lambda _: Fault(delay_seconds=0.1))
    assert [exchange.status for exchange in exchanges] == [200, 200, 200]  # none was given up and asked again


@pytest.mark.column("5 cuts fail")
def test_a_download_that_is_cut_at_every_try_fails_and_leaves_nothing_behind(
    reader: NixClient, published: Published
) -> None:
    with FlakyProxy(published.server.port, in_turn(NAR, [Fault(cut_response_after=PART)] * 5)) as proxy:
        reader.use_cache(f"http://127.0.0.1:{proxy.port}/{Path(published.url).name}", published.key)
        assert reader.try_pull(published.large).returncode != 0
        assert reader.try_run("nix-store", "--store", reader.root, "--check-validity", published.large).returncode != 0
        reader.pull(published.large)
    assert reader.nar_hash_of(published.large) == published.pusher.nar_hash_of(published.large)

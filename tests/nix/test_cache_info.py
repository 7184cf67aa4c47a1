from __future__ import annotations

import pytest

from icehouse.errors import InvalidFormat
from icehouse.nix.cache_info import CacheInfo, parse_cache_info, render_cache_info
from icehouse.nix.store_paths import NIX_STORE, StoreDir
from tests.nix.vectors import VECTORS


def test_what_nix_wrote_is_read() -> None:
    assert parse_cache_info((VECTORS / "narinfos" / "nix-cache-info").read_bytes()) == CacheInfo(NIX_STORE)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", CacheInfo()),
        (
            "StoreDir: /gnu/store\nWantMassQuery: 1\nPriority: 41\n",
            CacheInfo(StoreDir("/gnu/store"), want_mass_query=True, priority=41),
        ),
        (
            "StoreDir:/nix/store\r\nPriority:  -5 \r\nWantMassQuery:1",
            CacheInfo(NIX_STORE, want_mass_query=True, priority=-5),
        ),
        ("WantMassQuery: true\n", CacheInfo()),
        ("WantMassQuery: 0\n", CacheInfo()),
        ("Unknown: x\nno colon\n\npriority: 1\n", CacheInfo()),
        ("<html>not a cache</html>", CacheInfo()),
    ],
)
def test_it_is_read_as_leniently_as_nix_reads_it(text: str, expected: CacheInfo) -> None:
    assert parse_cache_info(text) == expected


def test_bytes_outside_utf_8_do_no_harm_in_unknown_fields() -> None:
    assert parse_cache_info(b"Motto: \xff\nPriority: 3\n").priority == 3


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("Priority: high\n", "Priority 'high' is not a decimal number"),
        ("Priority:\n", "Priority '' is not a decimal number"),
        ("Priority: 1e3\n", "Priority '1e3' is not a decimal number"),
        ("StoreDir: nix/store\n", "store directory 'nix/store'"),
        ("x" * 70_000, "has 70000 bytes: expected at most 65536"),
    ],
)
def test_what_a_client_could_not_use_is_refused(text: str, complaint: str) -> None:
    with pytest.raises(InvalidFormat, match=complaint):
        parse_cache_info(text)


@pytest.mark.parametrize(
    "info",
    [CacheInfo(NIX_STORE, want_mass_query=True, priority=41), CacheInfo(), CacheInfo(NIX_STORE, priority=-1)],
)
def test_it_comes_back(info: CacheInfo) -> None:
    assert parse_cache_info(render_cache_info(info)) == info


def test_it_is_rendered_line_by_line() -> None:
    text = render_cache_info(CacheInfo(NIX_STORE, want_mass_query=True, priority=41))
    assert text == "StoreDir: /nix/store\nWantMassQuery: 1\nPriority: 41\n"

"""A closure from its push to the trash and back, with the command line and a real Nix."""

import contextlib
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.client.private_nix import PrivateNix
from tests.end_to_end.conftest import CLOSURE, ServerProcess, User
from tests.end_to_end.test_push_and_pull import closure_of, create, dump, pull

pytestmark = pytest.mark.end_to_end

DAY = 86_400


def make_older(server: ServerProcess, days: int) -> None:
    """As if everything was pushed, and nothing was used, so many days before."""
    with contextlib.closing(sqlite3.connect(server.data_dir / "icehouse.db", isolation_level=None)) as database:
        database.execute("UPDATE path SET created_at = created_at - ?", (days * DAY,))


def test_closure_that_retention_let_go_is_restored_and_pulled(
    admin: User, builder: PrivateNix, server: ServerProcess, tmp_path: Path, make_user: Callable[[str], User]
) -> None:
    url, key = create(admin, "team", "--public", "--retention", "30d")
    top, base = builder.build(CLOSURE, "top"), builder.build(CLOSURE, "base")
    closure = sorted(Path(path).name for path in closure_of(builder, top))
    admin.icehouse("push", "team", "--store", str(builder.root), top)
    make_older(server, 31)
    admin.icehouse("pin", "team", "base", base)
    planned = admin.icehouse("gc", "team", "--dry-run", "--json").json
    (mark,) = planned["report"]["marks"]
    assert sorted(hidden["store_path"] for hidden in mark["hidden"]) == sorted(set(closure) - {Path(base).name})
    assert [(pin["pin"], pin["paths"]) for pin in planned["pins"]] == [("base", 1)]
    done = admin.icehouse("gc", "team", "--json").json
    assert done["report"] == {**planned["report"], "is_dry_run": False}
    assert admin.icehouse("cache", "show", "team", "--json").json["stored_bytes"] == mark["stored_bytes_after"]
    early = make_user("early")  # Nix remembers for an hour what it did not find.
    assert pull(early, tmp_path / "before", url, key, top).returncode != 0
    assert "not used for longer" in admin.icehouse("path", "why", "team", top).out
    restored = admin.icehouse("path", "restore", "team", top, "--json").json["restored"]
    assert restored == sorted(set(closure) - {Path(base).name})
    pulled = pull(admin, tmp_path / "after", url, key, top)
    assert pulled.returncode == 0, pulled.stderr
    assert all(dump(tmp_path / "after", path) == dump(builder.root, path) for path in closure_of(builder, top))
    chain = admin.icehouse("path", "why", "team", base, "--json").json["kept_by"]
    assert (chain["pin"], chain["chain"]) == ("base", [Path(base).name])
    assert admin.try_icehouse("path", "delete", "team", base, "--with-referrers", "--yes").code == 1
    admin.icehouse("unpin", "team", "base")
    deleted = admin.icehouse("path", "delete", "team", base, "--with-referrers", "--yes", "--json").json["deleted"]
    assert deleted == sorted([Path(base).name, Path(top).name])


def test_push_to_a_full_cache_is_refused_with_what_helps(admin: User, builder: PrivateNix) -> None:
    create(admin, "small", "--public", "--limit", "1MB")
    base, large = builder.build(CLOSURE, "base"), builder.build(CLOSURE, "large")
    admin.icehouse("push", "small", "--store", str(builder.root), large)
    assert "% of the limit" in admin.icehouse("cache", "show", "small").out
    refused = admin.try_icehouse("push", "small", "--store", str(builder.root), base)
    assert refused.code == 1
    assert "its limit is 976.6 KiB: nothing can be pushed until it is smaller" in refused.err
    admin.icehouse("cache", "configure", "small", "--limit", "none")
    admin.icehouse("push", "small", "--store", str(builder.root), base)

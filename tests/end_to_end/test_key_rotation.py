"""A key is rotated while real Nix pulls, with only the old key and with only the new one."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tests.client.private_nix import CLOSURE, PrivateNix
from tests.end_to_end.conftest import ServerProcess, User
from tests.end_to_end.test_push_and_pull import pull

pytestmark = pytest.mark.end_to_end


def test_rotation_keeps_those_with_the_old_and_those_with_the_new_key_pulling(
    admin: User, builder: PrivateNix, server: ServerProcess, tmp_path: Path
) -> None:
    store_dir = builder.environment["NIX_STORE_DIR"]
    created = admin.icehouse("cache", "create", "team", "--public", "--store-dir", store_dir, "--json")
    (old,) = created.json["public_keys"]
    base, top = builder.build(CLOSURE, "base"), builder.build(CLOSURE, "top")
    admin.icehouse("push", "team", base)
    new = admin.icehouse("key", "add", "team").out.strip()
    roots = (tmp_path / f"store-{number}" for number in range(100))

    def pulls(key: str, path: str, home: str = "") -> bool:
        """Whether a Nix that trusts one key pulls; *home* is what it remembers narinfos by, a new one if left out."""
        root = next(roots)
        user = replace(admin, environment={**admin.environment, "XDG_CACHE_HOME": str(tmp_path / (home or root.name))})
        return pull(user, root, f"{server.url}/team", key, path).returncode == 0

    assert (pulls(old, base, "early"), pulls(new, base)) == (True, False)  # staged
    name = new.partition(":")[0]
    admin.icehouse("key", "activate", "team", name)
    assert "1 paths looked at, 1 changed" in admin.icehouse("key", "progress", "team", "--wait").out
    admin.icehouse("push", "team", top)
    assert [pulls(key, path) for key in (old, new) for path in (base, top)] == [True] * 4
    assert (pulls(new, base, "early"), pulls(old, base, "early")) == (False, True)  # the narinfo that it remembers
    admin.icehouse("key", "retire", "team", old.partition(":")[0])
    assert json.loads(admin.icehouse("cache", "show", "team", "--json").out)["public_keys"] == [new]
    assert [pulls(key, top) for key in (old, new)] == [True, True]  # old signatures stay
    listed = json.loads(admin.icehouse("key", "list", "team", "--json").out)
    assert [key["state"] for key in listed] == ["retired", "active"]
    admin.icehouse("key", "retire", "team", old.partition(":")[0], "--strip")
    done = admin.icehouse("key", "progress", "team", "--wait", "--json").json
    assert (done["state"], done["looked_at"], done["changed"]) == ("done", 3, 3)
    assert [pulls(key, top) for key in (old, new)] == [False, True]

"""Pins from the command line to what curl and Nix make of them."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.client.private_nix import PrivateNix
from tests.end_to_end.conftest import CLOSURE, ServerProcess, User

pytestmark = pytest.mark.end_to_end


def curl(*arguments: str) -> bytes:
    return subprocess.run(
        ["curl", "--silent", "--show-error", "--fail", *arguments], capture_output=True, check=True
    ).stdout


def test_pinned_path_is_found_by_its_name_and_its_artifacts_are_downloaded(
    admin: User, builder: PrivateNix, server: ServerProcess, tmp_path: Path, require: Callable[[str], str]
) -> None:
    require("curl")
    store_dir = builder.environment["NIX_STORE_DIR"]
    admin.icehouse("cache", "create", "team", "--public", "--store-dir", store_dir)
    base, top = builder.build(CLOSURE, "base"), builder.build(CLOSURE, "top")
    assert admin.try_icehouse("pin", "team", "app", top).code == 4  # nothing was pushed yet
    admin.icehouse("push", "team", top)
    admin.icehouse("pin", "team", "app", base)
    pinned = admin.icehouse("pin", "team", "app", top, "--artifact", "share", "--keep-revisions", "5", "--json").json
    assert (pinned["pin"]["full_path"], pinned["pin"]["newest"]["number"]) == (top, 2)
    revisions = admin.icehouse("pins", "team", "app", "--json").json["revisions"]
    assert [each["store_path"] for each in revisions] == [Path(top).name, Path(base).name]
    assert "the last 5 revisions" in admin.icehouse("pins", "team").out
    assert admin.icehouse("resolve", "team", "app").out == f"{top}\n"
    url = f"{server.url}/team/pin/app"
    assert curl(url) == f"{top}\n".encode()
    assert curl(f"{url}/share/text") == b"text\n"
    file = tmp_path / "top"
    curl("--output", str(file), f"{url}/share/top")
    assert file.read_text().split()[-1] == top
    with pytest.raises(subprocess.CalledProcessError):
        curl(f"{url}/bin/absent")
    admin.icehouse("unpin", "team", "app")
    assert admin.try_icehouse("resolve", "team", "app").code == 4
    admin.icehouse("path", "info", "team", top)

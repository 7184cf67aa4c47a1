"""Our difference of two closures beside that of Nix."""

import json
import re
from contextlib import closing
from http.client import HTTPConnection
from typing import Any
from urllib.parse import urlencode

import pytest

from icehouse.rules.differences import Change
from scripts.nix_clients import CLIENTS
from tests.client.private_nix import PrivateNix
from tests.end_to_end.conftest import ServerProcess, User
from tests.end_to_end.nix_clients import SYSTEM_LINE, find_programs, find_version

pytestmark = pytest.mark.end_to_end

EXPRESSION = """
let
  make = name: kib: script: derivation {
    inherit name; system = builtins.currentSystem; builder = "/bin/sh"; PATH = "/usr/bin:/bin";
    args = [ "-c" "mkdir $out; head -c ${toString (kib * 1024)} /dev/zero > $out/zeros; ${script}" ];
  };
  closure = { glibc, rest, version }: make "system-${version}" 1
    "echo ${toString ([ glibc (zlib glibc) same ] ++ rest)} > $out/needs";
  zlib = glibc: make "zlib-1.3.1" 3 "echo ${glibc} | sed s/glibc.*/glibc/ > $out/needs";
  same = make "same-1" 5 "";
  config = text: make "config.json" 1 "echo ${text} > $out/text";
in {
  before = closure {
    version = "24.05"; glibc = make "glibc-2.39-52" 30 "";
    rest = [
      (config "a") (make "curl-8.7.1-bin" 40 "") (make "curl-8.7.1-dev" 2 "") (make "python3-3.11.9" 60 "")
      (make "bash-interactive" 9 "") (make "perl5.38.2-XML-Parser-2.46" 4 "") (make "shrinks-1" 64 "")
      (make "twice-1" 10 "") (make "tool-unstable-2024-01-02" 3 "") (make "hook" 1 "")
    ];
  };
  after = closure {
    version = "24.11"; glibc = make "glibc-2.40-66" 41 "";
    rest = [
      (config "b, longer") (make "curl-8.11.0-bin" 41 "") (make "curl-8.7.1-dev" 3 "") (make "python3-3.11.9" 60 "")
      (make "python3-3.12.8" 70 "") (make "jq-1.7.1-lib32" 12 "") (make "perl5.38.2-XML-Parser-2.47" 4 "")
      (make "shrinks-1" 8 "") (make "twice-1" 10 "") (make "twice-1" 11 "") (make "hook-7" 1 "")
      (make "tool-unstable-2024-03-04" 3 "")
    ];
  };
}
"""


def versions(texts: list[str]) -> str:
    return ", ".join(text or "ε" for text in sorted(texts)) or "∅"


def line_of(package: dict[str, Any]) -> str | None:
    """What Nix prints of a package that differs, if it does."""
    old, new = (
        [version for version in package[f"versions_{one}"] if version not in package[f"versions_{other}"]]
        for one, other in (("before", "after"), ("after", "before"))
    )
    change = package["bytes_after"] - package["bytes_before"]
    items = [f"{versions(old)} → {versions(new)}"] if old or new else []
    items += [f"{change / 1024:.1f} KiB"] if abs(change) >= 8 * 1024 else []
    return f"{package['name']}: {', '.join(items)}" if items else None


def test_difference_is_the_one_that_nix_tells_and_rebuilds_are_told_apart(
    admin: User, builder: PrivateNix, server: ServerProcess
) -> None:
    store_dir = builder.environment["NIX_STORE_DIR"]
    admin.icehouse("cache", "create", "differing", "--public", "--store-dir", store_dir)
    before, after = (builder.build(EXPRESSION, attribute) for attribute in ("before", "after"))
    admin.icehouse("push", "differing", before, after)
    query = urlencode({"from": before, "to": after})
    connection = HTTPConnection("127.0.0.1", server.port)
    with closing(connection):
        connection.request("GET", f"/api/v1/caches/differing/difference?{query}")
        packages = json.load(connection.getresponse())["packages"]

    ours = sorted(text for text in map(line_of, packages) if text is not None)
    assert len(ours) == 11
    lines = [SYSTEM_LINE, *(client.line for client in CLIENTS if client.programs.is_dir())]
    for programs in map(find_programs, lines):
        command = (str(programs / "nix"), "--extra-experimental-features", "nix-command", "store", "diff-closures")
        told = re.sub(r"\x1b\[[0-9;]*m", "", builder.run(*command, "--store", str(builder.root), before, after))
        # Before 2.34 a plus stands before what grew.
        assert sorted(told.replace(", +", ", ").replace(": +", ": ").splitlines()) == ours, find_version(programs)

    names = {change: {each["name"] for each in packages if each["change"] == change} for change in Change}
    assert names[Change.REBUILT] == {"zlib"}
    assert names[Change.CONTENTS] == {"config.json", "shrinks", "twice"}

"""Content-addressed derivations and stock Nix: built by one version, pushed, and substituted by others."""

import json
from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.end_to_end.conftest import Published, User
from tests.end_to_end.nix_clients import LINES, NixClient

pytestmark = pytest.mark.end_to_end

EXPRESSION = """
let
  make = name: script: derivation {
    inherit name; system = builtins.currentSystem; builder = "/bin/sh"; args = [ "-c" script ]; PATH = "/usr/bin:/bin";
    __contentAddressed = true; outputHashMode = "recursive"; outputHashAlgo = "sha256"; outputs = [ "out" "dev" ];
  };
in rec {
  base = make "base" "echo base > $out; echo base-dev > $dev";
  top = make "top" "echo ${base} > $out; echo ${base.dev} > $dev";
}
"""
SETTINGS = {"experimental-features": "nix-command ca-derivations", "require-sigs": "true"}


def get(url: str) -> tuple[int, bytes]:
    """Ask a public cache."""
    parts = urlsplit(url)
    connection = HTTPConnection(str(parts.hostname), parts.port)
    with closing(connection):
        connection.request("GET", parts.path)
        answer = connection.getresponse()
        return answer.status, answer.read()


@pytest.mark.column("CA builds to all")
def test_what_one_version_built_is_substituted_by_every_version(
    line: str, published: Published, tmp_path: Path
) -> None:
    builder = NixClient.make(line, tmp_path / "builder")
    admin = User(published.pusher.home, published.pusher.environment)
    options = ("--public", "--store-dir", builder.environment["NIX_STORE_DIR"], "--json")
    view = admin.icehouse("cache", "create", f"content-{line.replace('.', '-')}", *options).json
    netrc, file = tmp_path / "netrc", tmp_path / "expression.nix"
    netrc.write_text(f"machine 127.0.0.1 login x password {published.server.admin_token}\n")
    file.write_text(EXPRESSION)
    builder.configure({**SETTINGS, "netrc-file": str(netrc)})
    top = builder.build(EXPRESSION, "top")
    to = f"{view['url']}?compression=zstd"
    builder.run("nix", "copy", "--store", builder.root, "--to", to, "--file", file, "top.out", "top.dev")

    # Nix 2.35 asks by the derivation that was really run, which is the deriver that the older ones write.
    deriver = Path(builder.run("nix-store", "--store", builder.root, "-q", "--deriver", top)).name
    status, body = get(f"{view['url']}/build-trace-v2/{deriver}/out.doi")
    assert (status, json.loads(body)) == (200, {"outPath": Path(top).name, "signatures": []})
    unresolved = Path(builder.run("nix-instantiate", "--store", builder.root, file, "-A", "top").partition("!")[0]).name
    assert unresolved != deriver
    assert get(f"{view['url']}/build-trace-v2/{unresolved}/out.doi")[0] == 404

    for reader_line in LINES:
        # Its store is not where its store directory says, so it can build nothing.
        reader = NixClient.make(reader_line, tmp_path / reader_line, builder.environment["NIX_STORE_DIR"])
        keys = view["public_keys"][0]
        reader.configure({**SETTINGS, "substituters": view["url"], "trusted-public-keys": keys})
        assert reader.build(EXPRESSION, "top") == top, reader_line
        assert reader.dump(top) == builder.dump(top)

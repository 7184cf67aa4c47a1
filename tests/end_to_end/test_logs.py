"""Build logs and stock Nix: each version uploads one, and all print it."""

from dataclasses import dataclass
from itertools import count
from pathlib import Path

import pytest

from tests.end_to_end.conftest import Published, User
from tests.end_to_end.nix_clients import LINES, NixClient

pytestmark = pytest.mark.end_to_end

EXPRESSION = """
{ noisy = derivation {
  name = "noisy"; system = builtins.currentSystem; builder = "/bin/sh"; PATH = "/usr/bin:/bin";
  args = [ "-c" "seq -f 'step %.0f of the build' 50000; echo done > $out" ];
}; }
"""
NUMBERS = count()
TEXT = "\n".join(f"step {number} of the build" for number in range(1, 50_001))


@dataclass(frozen=True)
class Built:
    """Somebody who built something, and who may push to a private cache."""

    nix: NixClient
    url: str
    netrc: Path
    out_path: str
    derivation: str

    def copy_log(self, parameters: str = "") -> None:
        to = f"{self.url}{parameters}"
        self.nix.run("nix", "store", "copy-log", "--store", self.nix.root, "--to", to, self.derivation)

    def make_reader(self, line: str, folder: Path) -> NixClient:
        reader = NixClient.make(line, folder, self.nix.environment["NIX_STORE_DIR"])
        reader.configure({"netrc-file": str(self.netrc)})
        return reader


@pytest.fixture
def built(line: str, published: Published, tmp_path: Path) -> Built:
    nix = NixClient.make(line, tmp_path / "builder")
    admin = User(published.pusher.home, published.pusher.environment)
    name = f"logs-{next(NUMBERS)}"
    store_dir = nix.environment["NIX_STORE_DIR"]
    url = admin.icehouse("cache", "create", name, "--store-dir", store_dir, "--json").json["url"]
    netrc = tmp_path / "netrc"
    netrc.write_text(f"machine 127.0.0.1 login x password {published.server.admin_token}\n")
    nix.configure({"netrc-file": str(netrc)})
    out_path = nix.build(EXPRESSION, "noisy")
    derivation = nix.run("nix-store", "--store", nix.root, "-q", "--deriver", out_path)
    return Built(nix, url, netrc, out_path, derivation)


@pytest.mark.column("log to all")
def test_a_log_that_one_version_uploads_is_printed_by_every_version(built: Built, tmp_path: Path) -> None:
    built.copy_log()
    # Nix 2.8 looks for logs of what is in the cache only: the derivation itself, and what came from it.
    for arguments in ([built.out_path], ["--derivation", built.derivation]):
        built.nix.run("nix", "copy", "--store", built.nix.root, "--to", f"{built.url}?compression=zstd", *arguments)
    for line in LINES:
        reader = built.make_reader(line, tmp_path / line)
        for installable in (built.derivation, built.out_path):
            assert reader.run("nix", "log", "--store", built.url, installable) == TEXT, (line, installable)


@pytest.mark.parametrize("line", ["2.34"])  # older ones do not compress logs
def test_a_log_may_be_compressed_on_its_way(built: Built) -> None:
    for compression in ("xz", "zstd", "br", "gzip", "bzip2"):
        built.copy_log(f"?log-compression={compression}")
        assert built.nix.run("nix", "log", "--store", built.url, built.derivation) == TEXT


def test_a_stranger_can_neither_read_nor_write_logs_of_a_private_cache(built: Built, tmp_path: Path) -> None:
    built.copy_log()
    built.nix.configure({})
    copy = ("nix", "store", "copy-log", "--store", built.nix.root, "--to", built.url, built.derivation)
    assert built.nix.try_run(*copy).returncode != 0
    stranger = NixClient.make(built.nix.line, tmp_path / "stranger", built.nix.environment["NIX_STORE_DIR"])
    assert stranger.try_run("nix", "log", "--store", built.url, built.derivation).returncode != 0

"""Fetches sources and packages of Debian bookworm, through apt's signed indexes but apart from the system's apt."""

import hashlib
import os
import re
import subprocess
import urllib.parse
import urllib.request
from dataclasses import dataclass
from pathlib import Path

_URI_LINE = re.compile(r"'(?P<uri>[^']+)' (?P<file>\S+) (?P<size>\d+) SHA256:(?P<digest>[0-9a-f]{64})")
_KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
_BLOCK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Download:
    """A file of Debian on this disk, as its signed index describes it."""

    package: str
    version: str
    file: Path


class Debian:
    """Debian bookworm's archive. Owns *folder*: apt's state, and the files that were fetched."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._options: list[str] = []

    def fetch_sources(self, packages: list[str]) -> list[Download]:
        """Upstream's tarball of each source package, without Debian's patches."""
        text = self._apt("source", "--download-only", "--print-uris", *packages)
        return self._fetch(packages, text, r"^{package}_(?P<version>[^_]+)\.orig\.tar\.[a-z0-9]+$")

    def fetch_debs(self, packages: list[str]) -> list[Download]:
        """The .deb of each binary package for amd64."""
        text = self._apt("download", "--print-uris", *packages)
        return self._fetch(packages, text, r"^{package}_(?P<version>[^_]+)_(amd64|all)\.deb$")

    def _fetch(self, packages: list[str], uri_lines: str, pattern: str) -> list[Download]:
        offers = list(_URI_LINE.finditer(uri_lines))
        downloads: list[Download] = []
        for package in packages:
            name_pattern = re.compile(pattern.format(package=re.escape(package)))
            for offer in offers:
                name = urllib.parse.unquote(offer["file"])
                if (match := name_pattern.match(name)) is not None:
                    file = self._folder / "files" / f"{offer['digest'][:16]}-{package}"
                    if not file.exists():
                        _download(offer["uri"], file, sha256=offer["digest"])
                    version = re.sub(r"[^0-9A-Za-z.+-]", "-", match["version"].rpartition(":")[2])
                    downloads.append(Download(package, version, file))
                    break
            else:
                raise RuntimeError(f"apt offers no file of {package} whose name fits {name_pattern.pattern}")
        return downloads

    def _apt(self, *arguments: str) -> str:
        if not self._options:
            self._prepare()
        return _run(["apt-get", *self._options, "-qq", *arguments])

    def _prepare(self) -> None:
        """Make apt's private folders and read the indexes, once."""
        if not _KEYRING.exists():
            raise RuntimeError(f"{_KEYRING} is missing; it comes with the package debian-archive-keyring")
        folder = self._folder.resolve()
        for name in ("files", "state/lists/partial", "cache/archives/partial"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        sources = folder / "sources.list"
        place = f"[arch=amd64 signed-by={_KEYRING}] http://deb.debian.org/debian bookworm main"
        sources.write_text(f"deb {place}\ndeb-src {place}\n")
        status = folder / "status"  # Empty: what is installed here must not decide which version is offered.
        status.write_text("")
        settings = {
            "Dir::Etc::sourcelist": sources,
            "Dir::Etc::sourceparts": "/dev/null",
            "Dir::State": folder / "state",
            "Dir::State::status": status,
            "Dir::Cache": folder / "cache",
            "APT::Architecture": "amd64",
            "APT::Sandbox::User": "root",
            "Acquire::Languages": "none",
        }
        options = [part for key, value in settings.items() for part in ("-o", f"{key}={value}")]
        _run(["apt-get", *options, "-qq", "update"])
        self._options = options


def _run(command: list[str]) -> str:
    """The output of *command*, whose messages are shown when it fails."""
    done = subprocess.run(command, env={**os.environ, "LC_ALL": "C"}, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} failed with {done.returncode}: {done.stderr.strip()}")
    return done.stdout


def _download(uri: str, file: Path, *, sha256: str) -> None:
    """Put the bytes at *uri* into *file*, which appears only when they have the hash."""
    print(f"fetching {uri}", flush=True)
    temporary = file.with_name(f"{file.name}.partial")
    digest = hashlib.sha256()
    # The address is apt's, the hash that of the signed index.
    with urllib.request.urlopen(uri, timeout=60) as answer, temporary.open("wb") as target:  # noqa: S310
        while block := answer.read(_BLOCK_BYTES):
            digest.update(block)
            target.write(block)
    if digest.hexdigest() != sha256:
        temporary.unlink()
        raise RuntimeError(f"{uri} has SHA-256 {digest.hexdigest()}, expected {sha256}")
    temporary.rename(file)

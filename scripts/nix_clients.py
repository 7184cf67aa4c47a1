"""Unpacks newer Nix than Debian 12's into folders of their own, for tests with several versions of the client.

They come from Debian 13 and Debian unstable, with all libraries that they need, and are not installed: a wrapper runs
each program on the C library that came with it, so neither root nor a namespace is needed. What is there already is
kept, and nothing is downloaded for it. A client that cannot be had fails nothing: the reason is kept beside the
folders, and its tests are skipped with it.

The programs must not run themselves by their own path, which is the C library's loader: a configuration has to switch
off the build hook (``build-hook =``), which would.
"""

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "icehouse-tests"
DEFAULT_MIRROR = "http://deb.debian.org/debian"
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"  # has the keys of later releases too, and those of unstable
LIBRARIES = "usr/lib/x86_64-linux-gnu"

APT_CONFIGURATION = """\
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
#clear Acquire::IndexTargets::deb::DEP-11;
Dir::State "{work}/state";
Dir::State::status "/dev/null";
Dir::Cache "{work}/cache";
Dir::Etc::sourcelist "{work}/sources.list";
Dir::Etc::sourceparts "/dev/null";
Dir::Etc::preferences "/dev/null";
Dir::Etc::preferencesparts "/dev/null";
APT::Architecture "amd64";
APT::Architectures "amd64";
APT::Sandbox::User "";
Acquire::Languages "none";
Acquire::http::Timeout "20";
Acquire::Retries "2";
"""

WRAPPER = """\
#!/bin/sh
root=${{0%/*}}/../root
exec "$root/{libraries}/ld-linux-x86-64.so.2" --inhibit-cache --library-path "$root/{libraries}" \\
  --argv0 "$0" "$root/usr/bin/nix" "$@"
"""


class Unobtainable(Exception):
    """This client cannot be had here; says why."""


@dataclass(frozen=True)
class DebianNix:
    """The Nix of a release of Debian. The archive of a release that moves has a newer one at times: that is taken."""

    line: str
    suite: str
    package_version: str
    package_sha256: str
    """Of the package nix-bin; the archive's signature vouches for the rest, which a release may replace."""

    @property
    def folder(self) -> Path:
        """Where it is unpacked; whole, or not there."""
        return FOLDER / f"nix-{self.line}"

    @property
    def programs(self) -> Path:
        """The folder with `nix`, `nix-store` and the others."""
        return self.folder / "bin"

    @property
    def reason_file(self) -> Path:
        """Says why the client could not be had, when that was so."""
        return FOLDER / f"nix-{self.line}.missing"

    @property
    def pin(self) -> str:
        """What its folder keeps, to be made anew when another package is expected."""
        return f"{self.package_version} {self.package_sha256}\n"


CLIENTS = (
    DebianNix(
        line="2.26",
        suite="trixie",
        package_version="2.26.3+dfsg-1",
        package_sha256="06e8338eb0ca303802fcfe4579e184dd308d9fa89f7f0aae5974e21fac8178fb",
    ),
    DebianNix(
        line="2.34",
        suite="sid",
        package_version="2.34.8+dfsg-1+b1",
        package_sha256="c787924aaf747b0672e3a7e7b1ca005d2b296a2eaf21bb6d93bfebcf07f8ca06",
    ),
)


def main() -> None:
    """Bring the folders up to date, one caller at a time."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    with (FOLDER / "nix-clients.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for client in CLIENTS:
            pin = client.folder / "pin"
            if pin.is_file() and pin.read_text() == client.pin:
                continue
            say(f"Unpacking the Nix of Debian {client.suite} into {client.folder} (not installed)")
            try:
                with tempfile.TemporaryDirectory(dir=FOLDER, prefix="unpacking-") as work:
                    unpack(client, Path(work))
            except (Unobtainable, OSError) as exc:
                client.reason_file.write_text(f"{exc}\n")
                say(f"It cannot be had here, and the tests with it are skipped: {exc}")
            else:
                client.reason_file.unlink(missing_ok=True)


def say(text: str) -> None:
    """Tell what happens, beside the results of other programs."""
    print(text, file=sys.stderr, flush=True)


def run(*command: str | Path, folder: Path | None = None) -> str:
    """Run a program, which must succeed; give what it prints.

    Raises:
        Unobtainable: it failed, with the last line that it said.
    """
    done = subprocess.run(command, cwd=folder, check=False, capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["without a message"])[-1]
        raise Unobtainable(f"{' '.join(str(word) for word in command[:6])} … failed: {last}")
    return done.stdout


def unpack(client: DebianNix, work: Path) -> None:
    """Download what the client needs, try it, and put it in place.

    Raises:
        Unobtainable: this machine is not Debian's amd64, or the archive cannot be reached or trusted.
    """
    if shutil.which("apt-get") is None or run("dpkg", "--print-architecture").strip() != "amd64":
        raise Unobtainable("it is unpacked on Debian's amd64 only")
    packages = download(client, work)
    built = work / "built"
    for part in ("root", "bin"):
        (built / part).mkdir(parents=True)
    for package in packages:
        run("dpkg-deb", "-x", package, built / "root")
    for program in (built / "root/usr/bin").glob("nix*"):
        wrapper = built / "bin" / program.name
        wrapper.write_text(WRAPPER.format(libraries=LIBRARIES))
        wrapper.chmod(0o755)
    version = run(built / "bin/nix", "--version").split()[-1]
    if not version.startswith(client.line):
        say(f"Note: Debian {client.suite} has Nix {version} now, not {client.line}; the tests use that.")
    (built / "pin").write_text(client.pin)
    if client.folder.exists():
        shutil.rmtree(client.folder)
    built.rename(client.folder)


def download(client: DebianNix, work: Path) -> list[Path]:
    """Fetch nix-bin and the libraries that it needs into *work*, checked by apt against the archive's signature.

    Nix needs none of the other packages that theirs would bring, such as Perl: no maintainer's script is run.
    """
    for folder in ("state/lists/partial", "cache/archives/partial", "packages"):
        (work / folder).mkdir(parents=True)
    source = f"deb [arch=amd64 signed-by={KEYRING}] {find_mirror()} {client.suite} main\n"
    (work / "sources.list").write_text(source)
    (work / "apt.conf").write_text(APT_CONFIGURATION.format(work=work))
    configured = ("-c", work / "apt.conf")
    run("apt-get", *configured, "update", "--error-on=any", "-qq")
    needed = run("apt-get", *configured, "install", "--no-install-recommends", "--print-uris", "-qq", "nix-bin")
    # Each line has the address, and then the name of the file, which begins with the package's.
    names = {line.split()[1].partition("_")[0] for line in needed.splitlines()}
    libraries = sorted(name for name in names if name.startswith("lib") and "perl" not in name)
    run("apt-get", *configured, "download", "-qq", "nix-bin", *libraries, folder=work / "packages")
    packages = sorted((work / "packages").iterdir())
    nix = next(package for package in packages if package.name.startswith("nix-bin_"))
    found = nix.name.split("_")[1]
    if found != client.package_version:
        say(f"Note: nix-bin {found} was found where {client.package_version} was expected; the tests use that.")
    elif hashlib.sha256(nix.read_bytes()).hexdigest() != client.package_sha256:
        raise Unobtainable(f"nix-bin {found} does not have the SHA-256 that it had, {client.package_sha256}")
    return packages


def find_mirror() -> str:
    """The mirror of Debian that this machine's apt uses, or the one that every machine can use."""
    chosen = ("Created-By: Packages", "Origin: Debian", "Label: Debian")
    mirrors = run("apt-get", "indextargets", "--format", "$(REPO_URI)", *chosen).split()
    return mirrors[0] if mirrors else DEFAULT_MIRROR


if __name__ == "__main__":
    main()

"""Real Nix stores with a physical root of their own: building in them, reading, copying out of and into them."""

import json
import os
import shutil
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from bench.processes import Finished, run_measured

_CONFIGURATION = """\
experimental-features = nix-command
build-users-group =
sandbox = true
sandbox-fallback = false
sandbox-paths = {sandbox_paths}
substituters =
max-jobs = {jobs}
cores = 1
warn-dirty = false
"""
# A store whose root is elsewhere builds in a sandbox only; that shows the machine's compiler to the builders.
_SANDBOX_PATHS = ("/usr", "/bin", "/lib", "/lib64", "/etc/alternatives")


@dataclass(frozen=True, slots=True)
class PathFacts:
    """What Nix's database knows of one store path."""

    path: str
    nar_hash: str
    nar_bytes: int
    references: frozenset[str]

    @property
    def name(self) -> str:
        """The part after the hash."""
        return self.path.rpartition("/")[2][33:]


class NixStore:
    """A store with store directory ``/nix/store`` whose files lie in *root*. Owns nothing else of the machine's Nix."""

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()
        self.root.mkdir(parents=True, exist_ok=True)
        self._settings = self.root.with_name(f"{self.root.name}-nix.conf.d")
        self._settings.mkdir(exist_ok=True)
        sandbox_paths = " ".join(path for path in _SANDBOX_PATHS if Path(path).exists())
        text = _CONFIGURATION.format(sandbox_paths=sandbox_paths, jobs=os.cpu_count() or 1)
        (self._settings / "nix.conf").write_text(text)

    @property
    def url(self) -> str:
        """What ``nix --store`` takes."""
        return f"local?root={self.root}"

    def physical(self, path: str) -> Path:
        """Where the files of a store path lie."""
        return self.root / path.removeprefix("/")

    @property
    def environment(self) -> dict[str, str]:
        """The environment in which Nix reads our settings only. Its cache of narinfos is in the settings folder."""
        kept = {key: value for key, value in os.environ.items() if not key.startswith("NIX_")}
        return {
            **kept,
            "NIX_CONF_DIR": str(self._settings),
            "NIX_USER_CONF_FILES": "/dev/null",
            "XDG_CACHE_HOME": str(self._settings / "cache"),
        }

    def run(self, *command: str, show: bool = False) -> str:
        """The output of a command of Nix, given this store. Its messages are shown, or quoted when it fails."""
        line = [command[0], "--store", self.url, *command[1:]]
        stderr = None if show else subprocess.PIPE
        done = subprocess.run(line, env=self.environment, stdout=subprocess.PIPE, stderr=stderr, text=True, check=False)
        if done.returncode != 0:
            reason = "" if show else f": {done.stderr.strip()[-2000:]}"
            raise RuntimeError(f"{' '.join(line)} failed with {done.returncode}{reason}")
        return done.stdout

    def build(self, expression: Path, attribute: str, manifest: Path) -> list[str]:
        """Build one attribute of an expression that takes a manifest; the store paths that came out."""
        log = self._settings / "build.log"
        command = ["nix-build", "--store", self.url, "--no-out-link", "--keep-going", str(expression)]
        command += ["--argstr", "manifest", str(manifest), *(["-A", attribute] if attribute else [])]
        with log.open("a") as messages:
            done = subprocess.run(
                command, env=self.environment, stdout=subprocess.PIPE, stderr=messages, text=True, check=False
            )
        if done.returncode != 0:
            tail = "\n".join(log.read_text(errors="replace").splitlines()[-25:])
            raise RuntimeError(f"{' '.join(command)} failed with {done.returncode}; the end of {log}:\n{tail}")
        return done.stdout.split()

    def closure(self, *roots: str) -> list[PathFacts]:
        """All that *roots* reach, themselves too, sorted by path."""
        answer = cast("list[dict[str, Any]]", json.loads(self.run("nix", "path-info", "--json", "-r", *roots)))
        facts = [
            PathFacts(entry["path"], entry["narHash"], entry["narSize"], frozenset(entry["references"]))
            for entry in answer
        ]
        return sorted(facts, key=lambda fact: fact.path)

    def add_file(self, file: Path) -> str:
        """Copy *file* into the store; its store path, which refers to nothing."""
        return self.run("nix-store", "--add", str(file)).strip()

    def copy_to_file_cache(self, roots: tuple[str, ...], folder: Path, parameters: str) -> Finished:
        """Copy the closure into an empty ``file://`` binary cache."""
        shutil.rmtree(folder, ignore_errors=True)
        shutil.rmtree(self._settings / "cache", ignore_errors=True)  # Else Nix remembers what the last one had.
        target = f"file://{folder.resolve()}?{parameters}"
        command = ["nix", "--store", self.url, "copy", "--quiet", "--no-check-sigs", "--to", target, *roots]
        return run_measured(command, self.environment)

    def copy_to(self, cache_url: str, *roots: str, netrc: Path | None = None) -> Finished:
        """Copy the closure of *roots* to a binary cache, remembering nothing of what it had."""
        with tempfile.TemporaryDirectory() as memory:
            command = ["nix", "--store", self.url, "copy", "--quiet", "--no-check-sigs", "--to", cache_url, *roots]
            if netrc is not None:
                command += ["--option", "netrc-file", str(netrc)]
            return run_measured(command, {**self.environment, "XDG_CACHE_HOME": memory})

    def pull(self, cache_url: str, *roots: str, jobs: int = 1, trusted_key: str | None = None) -> float:
        """Substitute the closure of *roots* from a binary cache; the seconds that it took.

        With *trusted_key* signatures are required. *jobs* is how many NARs Nix 2.8 downloads at once; 1 is its default.
        """
        shutil.rmtree(self._settings / "cache", ignore_errors=True)
        options = ["--option", "substituters", cache_url, "--max-jobs", str(jobs)]
        if trusted_key is None:
            options += ["--option", "require-sigs", "false"]
        else:
            options += ["--option", "require-sigs", "true", "--option", "trusted-public-keys", trusted_key]
        started = time.perf_counter()
        self.run("nix-store", "--realise", *options, *roots)
        return time.perf_counter() - started

    def delete(self) -> None:
        """Remove the store and its settings from the disk."""
        for folder in (self.root, self._settings):
            if folder.exists():
                subprocess.run(["chmod", "-R", "u+w", str(folder)], check=True)
                shutil.rmtree(folder)

"""What pushing while building costs a build, and how soon what was built last can be pulled."""

import contextlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
from collections.abc import Generator
from pathlib import Path

from bench.corpora import bench_folder
from bench.nix_store import NixStore
from bench.rounds import Series, interleave
from bench.server import CACHE, ICEHOUSE, IcehouseServer
from bench.table import Row, at_most, compared, measured

_DERIVATIONS = 50
_SECONDS = 2
_CHAIN = 10

_SIDE_BY_SIDE = """
builtins.genList (number: derivation {{
  name = "{name}-${{toString number}}"; system = builtins.currentSystem; builder = "/bin/sh"; PATH = "/usr/bin:/bin";
  args = [ "-c" "sleep {seconds}; head -c 1000000 /dev/urandom > $out" ];
}}) {count}
"""
_ONE_AFTER_ANOTHER = """
let make = number: derivation {{
  name = "{name}-${{toString number}}"; system = builtins.currentSystem; builder = "/bin/sh"; PATH = "/usr/bin:/bin";
  before = if number == 0 then "" else make (number - 1);
  args = [ "-c" "sleep 0.5; head -c 1000000 /dev/urandom > $out; echo $before >> $out" ];
}}; in make {last}
"""


class _Builder:
    """Builds what was never built, with a server and a daemon that listens beside."""

    def __init__(self, folder: Path, server: IcehouseServer, store: NixStore) -> None:
        self.folder = folder
        self.server = server
        self.store = store
        self.environment = server.client_environment(store.environment) | {"HOME": str(folder)}
        self._built = 0

    def expression(self, text: str) -> str:
        """*text* with a name that is new."""
        self._built += 1
        return text.format(
            name=f"n{time.time_ns()}-{self._built}", seconds=_SECONDS, count=_DERIVATIONS, last=_CHAIN - 1
        )

    def command(self, expression: str, *options: str) -> list[str]:
        return ["nix-build", "--store", self.store.url, "--no-out-link", *options, "-E", expression]

    def build(self, *options: str) -> float:
        """Seconds of a build."""
        command = self.command(self.expression(_SIDE_BY_SIDE), *options)
        began = time.perf_counter()
        subprocess.run(command, env=self.environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)
        return time.perf_counter() - began

    def last_visible(self) -> float:
        """Seconds from the end of a command that builds ten derivations until the cache has the last one."""
        expression = self.expression(_ONE_AFTER_ANOTHER)
        derivation = subprocess.run(
            ["nix-instantiate", "--store", self.store.url, "-E", expression],
            env=self.environment,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        output = self.store.run("nix-store", "-q", "--outputs", derivation).strip()
        ended = self.folder / "ended"
        build = ["nix-store", "--store", self.store.url, "-r", derivation]
        script = f'"$@" > /dev/null 2>&1; date +%s.%N > {ended}'
        command = [ICEHOUSE, "watch-exec", CACHE, "--store", self.store.url, "--", "sh", "-c", script, "sh", *build]
        with subprocess.Popen(command, env=self.environment, stderr=subprocess.DEVNULL) as process:
            while not self._has(output):
                time.sleep(0.01)
            seen = time.time()
            process.wait()
        return max(0.0, seen - float(ended.read_text()))

    def _has(self, path: str) -> bool:
        with contextlib.suppress(urllib.error.HTTPError):
            self.server.read(f"{Path(path).name[:32]}.narinfo")
            return True
        return False


def measure_builds(rounds: int) -> list[Row]:
    """Fifty derivations of two seconds each, with the hook and a daemon that pushes, and without."""
    folder = bench_folder() / "builds"
    shutil.rmtree(folder, ignore_errors=True)
    store = NixStore(folder / "store")
    with IcehouseServer(folder / "data") as server, tempfile.TemporaryDirectory() as spool:
        store.run("nix-store", "--init")
        builder = _Builder(folder, server, store)
        with _daemon(builder, Path(spool) / "spool") as hook:
            measures = {
                "with": lambda: builder.build("--option", "post-build-hook", str(hook)),
                "without": builder.build,
            }
            seconds = interleave(measures, rounds=rounds, warm_up=False)
        visible = Series([builder.last_visible() for _ in range(rounds)])
    title = f"build of {_DERIVATIONS} derivations of {_SECONDS} s, with the hook and without"
    return [
        compared(title, Series(seconds["with"]), Series(seconds["without"]), "s", at_most(1.05)),
        measured("watch-exec: end of ten derivations, until the last is in the cache", visible.median, "s", at_most(2)),
    ]


@contextlib.contextmanager
def _daemon(builder: _Builder, spool: Path) -> Generator[Path]:
    """A daemon that runs, and the hook that tells it of builds."""
    environment = builder.environment | {"ICEHOUSE_DAEMON_DIR": str(builder.folder / "daemon")}
    install = [ICEHOUSE, "hook", "install", "--spool", spool]
    hook = builder.folder / "hook"
    text = subprocess.run([*install, "--print", "script"], env=environment, capture_output=True, check=True).stdout
    hook.write_bytes(text)
    hook.chmod(0o755)
    for name in ("tmp", "new"):
        (spool / name).mkdir(parents=True)
    command = [ICEHOUSE, "daemon", "run", CACHE, "--store", builder.store.url, "--spool", spool]
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        process.stderr.readline()
        yield hook
    finally:
        process.send_signal(signal.SIGTERM)
        _, told = process.communicate()
        print(f"bench: {' '.join(told.split())}", file=sys.stderr)

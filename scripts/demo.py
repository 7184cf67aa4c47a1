"""The main job in a minute: serve, push a closure, pull it with real Nix, push a rebuild of it.

Everything happens in a folder of its own that is removed afterwards; Nix builds into a private store there.
"""

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Generator
from http import HTTPStatus
from pathlib import Path
from typing import Any

ICEHOUSE = Path(sys.executable).with_name("icehouse")
EXPRESSION = Path(__file__).with_name("demo.nix")
CACHE = "demo"
START_SECONDS = 30
MEGABYTE = 1_000_000


def main() -> int:
    """Run the demo; 0 if all of it went well."""
    with tempfile.TemporaryDirectory(prefix="icehouse-demo-") as folder, contextlib.ExitStack() as stack:
        work = Path(folder)
        stack.callback(_make_writable, work)  # Nix's stores are read-only, and could not be removed
        nix = _nix_settings(work)
        say("Starting a server.")
        url = stack.enter_context(running_server(work))
        icehouse("login", url, "--token-file", work / "data" / "admin-token", env=nix)
        view = json.loads(
            icehouse("cache", "create", CACHE, "--public", "--store-dir", nix["NIX_STORE_DIR"], "--json", env=nix)
        )
        key = view["public_keys"][0]

        say("Building a closure with Nix.")
        first = build("1", nix)
        say("Pushing it.")
        pushed = json.loads(icehouse("push", CACHE, first, "--json", env=nix))

        say("Pulling it with Nix into an empty store, its signatures checked.")
        pull(work, first, view["url"], key, nix)

        say("Building it again with one input changed: every store path is new, the contents are the same.")
        second = build("2", nix)
        say("Pushing that.")
        rebuilt = json.loads(icehouse("push", CACHE, second, "--json", env=nix))
        print_results(pushed, rebuilt, view["url"], key)
    return 0


def say(text: str) -> None:
    """Tell what comes next."""
    print(f"demo: {text}", flush=True)


def icehouse(*args: str | Path, env: dict[str, str]) -> str:
    """Run a command of ours; give what it prints."""
    return run([ICEHOUSE, *args], env)


def run(command: list[str | Path], env: dict[str, str]) -> str:
    """Run a program, which must succeed; give what it prints."""
    done = subprocess.run(command, env=env, stdout=subprocess.PIPE, check=False, text=True)
    if done.returncode:
        raise SystemExit(f"demo: failed with exit code {done.returncode}: {' '.join(map(str, command))}")
    return done.stdout


@contextlib.contextmanager
def running_server(work: Path) -> Generator[str]:
    """A server on a free port, with its data in *work*; its URL."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    log = (work / "server.log").open("w")
    server = subprocess.Popen(
        [ICEHOUSE, "serve", "--port", port, "--data-dir", work / "data"], stdout=log, stderr=subprocess.STDOUT
    )
    url = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + START_SECONDS
        while not _is_ready(url):
            if server.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"demo: the server did not start:\n{(work / 'server.log').read_text()}")
            time.sleep(0.1)
        yield url
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(timeout=START_SECONDS)
        log.close()


def _is_ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=1) as answer:  # noqa: S310 - our own server
            return answer.status == HTTPStatus.OK
    except OSError:
        return False


def _nix_settings(work: Path) -> dict[str, str]:
    """An environment in which Nix uses a private store and no configuration of the machine's."""
    settings = work / "nix-conf"
    settings.mkdir()
    (settings / "nix.conf").write_text(
        "build-users-group =\nsandbox = false\nsubstitute = false\nexperimental-features = nix-command\n"
    )
    kept = {name: value for name, value in os.environ.items() if not re.match(r"(NIX|XDG|ICEHOUSE)_", name)}
    return kept | {
        "HOME": str(work / "home"),
        "NIX_CONF_DIR": str(settings),
        "NIX_USER_CONF_FILES": "",
        "NIX_REMOTE": "",
        "NIX_STORE_DIR": str(work / "store"),
        "NIX_STATE_DIR": str(work / "state"),
        "NIX_LOG_DIR": str(work / "log"),
    }


def build(generation: str, env: dict[str, str]) -> str:
    """The store path of the closure's root."""
    command: list[str | Path] = ["nix-build", "-Q", "--no-out-link", "--argstr", "generation", generation, EXPRESSION]
    return run(command, env).strip()


def pull(work: Path, path: str, url: str, key: str, env: dict[str, str]) -> None:
    """Pull a closure into an empty store, and compare every path of it byte for byte."""
    empty = work / "pulled"
    there = f"local?store={env['NIX_STORE_DIR']}&real={empty}/store&state={empty}/state&log={empty}/log"
    options = ["--option", "require-sigs", "true", "--option", "trusted-public-keys", key]
    run(["nix", "copy", "--from", url, "--to", there, *options, path], env)
    for copied in run(["nix-store", "-qR", path], env).split():
        here, pulled = Path(copied), empty / "store" / Path(copied).name
        if run(["nix", "hash", "path", here], env) != run(["nix", "hash", "path", pulled], env):
            raise SystemExit(f"demo: {copied} came back with other contents")


def print_results(pushed: dict[str, Any], rebuilt: dict[str, Any], url: str, key: str) -> None:
    """The table at the end."""
    rows = [
        ("", "first push", "rebuild"),
        *(
            (title, amount(pushed[name], unit), amount(rebuilt[name], unit))
            for title, name, unit in (
                ("paths pushed", "paths_pushed", ""),
                ("NAR bytes", "nar_bytes", "B"),
                ("bytes sent", "sent_bytes", "B"),
                ("bytes stored", "stored_bytes", "B"),
                ("seconds", "seconds", "s"),
            )
        ),
    ]
    print()
    for title, first, second in rows:
        print(f"  {title:<14} {first:>14} {second:>14}")
    print(f"\n  substituter    {url}\n  public key     {key}")


def amount(value: float, unit: str) -> str:
    """A number for people."""
    if unit == "B":
        return f"{value / 1e6:,.2f} MB" if value >= MEGABYTE else f"{value / 1e3:,.1f} kB"
    return f"{value:.2f}" if unit == "s" else f"{value:,}"


def _make_writable(folder: Path) -> None:
    for root, folders, _ in os.walk(folder):
        for name in folders:
            path = Path(root, name)
            if not path.is_symlink():
                path.chmod(0o700)


if __name__ == "__main__":
    if shutil.which("nix-build") is None:
        raise SystemExit("demo: nix-build is not here; `make demo` installs it (Debian's package nix-bin)")
    sys.exit(main())

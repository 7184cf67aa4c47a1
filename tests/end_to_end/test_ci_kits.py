"""The kits in `ci/`: their steps are run as the CI would run them, with real Nix and a real server."""

import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest

from tests.client.private_nix import PrivateNix
from tests.end_to_end.conftest import ServerProcess, User
from tests.end_to_end.test_watch_exec import build_command, chain, published

pytestmark = pytest.mark.end_to_end

KITS = Path(__file__).parent.parent.parent / "ci"
PROGRAMS = str(Path(sys.executable).parent)


def read_yaml(name: str) -> dict[str, Any]:
    return cast("dict[str, Any]", msgspec.yaml.decode((KITS / name).read_bytes()))


@pytest.fixture
def job(admin: User, builder: PrivateNix) -> User:
    """A job with a cache, and `icehouse` in PATH."""
    admin.icehouse("cache", "create", "team", "--public", "--store-dir", admin.environment["NIX_STORE_DIR"])
    builder.run("nix-store", "--store", str(builder.root), "--init")
    admin.environment["PATH"] = f"{PROGRAMS}:{admin.environment['PATH']}"
    admin.environment["TMPDIR"] = str(admin.home)
    return admin


def run_action(job: User, inputs: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """What GitHub does with the action's steps: the last one, or the one that failed."""
    action = read_yaml("action.yml")
    values = {name: inputs.get(name, entry.get("default", "")) for name, entry in action["inputs"].items()}
    done: subprocess.CompletedProcess[str] | None = None
    for step in action["runs"]["steps"]:
        assert step["shell"] == "sh"
        if step.get("if") == "inputs.run != ''" and not values["run"]:
            continue
        environment = {
            name: re.sub(r"\$\{\{ inputs\.(\w+) \}\}", lambda match: values[match[1]], text)
            for name, text in step["env"].items()
        }
        github = {"GITHUB_ACTION_PATH": str(KITS), "GITHUB_ACTIONS": "true"}
        done = subprocess.run(
            ["sh", "-e", "-c", step["run"]],
            env={**job.environment, **github, **environment},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            break
    assert done is not None
    return done


def run_gitlab(job: User, script: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """What GitLab does: both scripts in one shell that ends at the first failure."""
    before = read_yaml("gitlab.yml")[".icehouse"]["before_script"]
    return subprocess.run(
        ["sh", "-e", "-c", "\n".join([*before, script])],
        env={**job.environment, **variables},
        capture_output=True,
        text=True,
        check=False,
    )


def quoted(command: list[str]) -> str:
    return " ".join("'" + word.replace("'", "'\\''") + "'" for word in command)


@pytest.mark.parametrize("name", ["icehouse-ci"])
def test_scripts_are_sound(name: str, require: Callable[[str], str]) -> None:
    done = subprocess.run([require("shellcheck"), KITS / name], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_the_script_of_the_gitlab_template_is_sound(require: Callable[[str], str]) -> None:
    text = "#!/bin/sh\n" + "\n".join(read_yaml("gitlab.yml")[".icehouse"]["before_script"])
    done = subprocess.run([require("shellcheck"), "-"], input=text, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_the_github_action_pulls_and_pushes(job: User, server: ServerProcess, builder: PrivateNix) -> None:
    script = f"export NIX_REMOTE='{builder.root}'; {quoted(build_command(builder, chain(2, 0)))}"
    job.environment["NIX_REMOTE"] = str(builder.root)
    done = run_action(job, {"cache": f"{server.url}/team", "run": script})
    assert done.returncode == 0, done.stderr
    assert published(job, "team") == ["link-0", "link-1"]
    assert f"extra-substituters = {server.url}/team" in (job.home / ".config/nix/icehouse.conf").read_text()


def test_the_gitlab_template_pulls_and_pushes(job: User, server: ServerProcess, builder: PrivateNix) -> None:
    job.environment["NIX_REMOTE"] = str(builder.root)
    script = f"icehouse_run {quoted(build_command(builder, chain(1, 0)))}"
    done = run_gitlab(job, script, ICEHOUSE_CACHE=f"{server.url}/team")
    assert done.returncode == 0, done.stderr
    assert published(job, "team") == ["link-0"]


def test_a_cache_that_fails_leaves_a_job_as_it_is(job: User, server: ServerProcess) -> None:
    server.stop()
    cache = f"{server.url}/team"
    done = run_action(job, {"cache": cache, "run": "echo built"})
    assert (done.returncode, done.stdout) == (0, "built\n"), done.stderr
    assert run_action(job, {"cache": cache}).returncode == 0
    assert run_action(job, {"cache": cache, "run": "exit 7"}).returncode == 7
    done = run_gitlab(job, "icehouse_run echo built", ICEHOUSE_CACHE=cache)
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "built")
    assert run_gitlab(job, "icehouse_run false", ICEHOUSE_CACHE=cache).returncode == 1


def test_a_job_without_icehouse_goes_on_without_it(job: User) -> None:
    job.environment["PATH"] = job.environment["PATH"].replace(f"{PROGRAMS}:", "")
    absent = str(job.home / "no-such-package")
    done = run_action(job, {"cache": "http://127.0.0.1:9/team", "run": "echo built", "package": absent})
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "built"), done.stderr
    assert "::warning title=Icehouse::" in done.stdout
    done = run_gitlab(job, "icehouse_run echo built", ICEHOUSE_CACHE="x", ICEHOUSE_PACKAGE=absent)
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "built"), done.stderr

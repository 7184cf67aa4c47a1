"""What `icehouse push` leaves out, tells beforehand, waits for, and does where the server does not do its part."""

import json
import os
import re
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.client.private_nix import PrivateNix
from tests.client.test_local_store import BUILD
from tests.end_to_end.conftest import CLOSURE, Done, ServerProcess, User
from tests.end_to_end.nix_clients import NixClient
from tests.scripted_server import Answer, ScriptedServer

pytestmark = pytest.mark.end_to_end

TIGHT = "--timeout=2s"
"""What a server that never answers may take of a build; the process leaves some seconds later at most."""


@pytest.fixture
def caches(admin: User, builder: PrivateNix) -> tuple[str, str]:
    """Two caches that share nothing."""
    for name in ("one", "two"):
        admin.icehouse("cache", "create", name, "--store-dir", builder.environment["NIX_STORE_DIR"], "--no-upstream")
    return "one", "two"


@pytest.fixture
def pushed_from(builder: PrivateNix) -> tuple[str, ...]:
    return "--store", str(builder.root)


def has(user: User, cache: str, path: str) -> bool:
    return user.try_icehouse("path", "info", cache, Path(path).name).code == 0


def outcomes_of(done: Done) -> list[dict[str, Any]]:
    return json.loads(done.out)


@pytest.mark.usefixtures("caches")
def test_a_dry_run_tells_what_the_push_then_sends(
    admin: User, builder: PrivateNix, pushed_from: tuple[str, ...]
) -> None:
    top = builder.build(CLOSURE, "top")
    told = admin.icehouse("push", "one", *pushed_from, top, "--dry-run", "--json").json
    assert not has(admin, "one", builder.build(CLOSURE, "base"))
    done = admin.icehouse("push", "one", *pushed_from, top, "--json").json
    assert len(told["to_push"]) == done["paths_pushed"] == 3
    assert (told["paths_pushed"], told["stored_bytes"]) == (0, 0)
    assert told["new_bytes"] == done["new_bytes"] > 4_000_000
    assert told["nar_bytes"] == done["nar_bytes"]
    again = admin.icehouse("push", "one", *pushed_from, top, "--dry-run")
    assert again.out == "Would push 0 of 3 paths (3 were there already). Nothing was sent.\n"


@pytest.mark.usefixtures("caches")
def test_what_needs_an_excluded_path_is_left_out_unless_the_cache_has_that(
    admin: User, builder: PrivateNix, pushed_from: tuple[str, ...]
) -> None:
    top, base, large = (builder.build(CLOSURE, name) for name in ("top", "base", "large"))
    first = admin.icehouse("push", "one", *pushed_from, top, "--exclude-larger-than", "1MiB")
    assert first.out.startswith("Pushed 1 of 3 paths (2 left out)")
    assert f"Left out, as excluded: {Path(large).name}." in first.err
    assert f"a cache takes whole closures only: {Path(top).name}." in first.err
    assert [has(admin, "one", path) for path in (top, base, large)] == [False, True, False]
    admin.icehouse("push", "one", *pushed_from, large)
    second = admin.icehouse("push", "one", *pushed_from, top, "--exclude", "lar*", "--json").json
    assert (second["paths_pushed"], second["excluded"], second["dependents"]) == (1, [], [])
    assert has(admin, "one", top)


def test_one_of_several_caches_that_fails_does_not_keep_the_others(
    admin: User, builder: PrivateNix, caches: tuple[str, str], pushed_from: tuple[str, ...]
) -> None:
    base = builder.build(CLOSURE, "base")
    done = admin.try_icehouse("push", "one", "--to", "absent", "--to", "two", *pushed_from, base, "--json")
    assert (done.code, done.err) == (
        4,
        "icehouse: there is no cache 'absent', or none that these credentials may see\n",
    )
    outcomes = [(each["cache"], each["paths_pushed"], each["error"] is None) for each in outcomes_of(done)]
    assert outcomes == [("one", 1, True), ("absent", 0, False), ("two", 1, True)]
    assert [has(admin, cache, base) for cache in caches] == [True, True]


@pytest.mark.usefixtures("caches")
def test_limits_change_how_a_push_goes_and_not_what_it_does(
    admin: User, builder: PrivateNix, pushed_from: tuple[str, ...], server: ServerProcess
) -> None:
    large = builder.build(CLOSURE, "large")
    limits = ("--limit-rate", "20MiB", "--max-memory", "128MiB", "-j", "2", "--wait", "--timeout", "5m")
    done = admin.icehouse("push", "one", "--to", f"{server.url}/two", *pushed_from, large, *limits, "--json")
    assert [each["paths_pushed"] for each in outcomes_of(done)] == [1, 1]
    assert all(each["sent_bytes"] > 4_000_000 for each in outcomes_of(done))


@pytest.mark.parametrize("option", ["--limit-rate=1", "--max-memory=1MiB", "--timeout=soon", "--exclude-larger-than=x"])
def test_a_limit_that_makes_no_sense_is_wrong_usage_also_for_best_effort(
    make_user: Callable[[str], User], option: str
) -> None:
    done = make_user("x").try_icehouse("push", "one", "/nix/store/x", option, "--best-effort")
    assert (done.code, done.out, "Traceback" in done.err) == (2, "", False)
    assert option.partition("=")[0] in done.err


@pytest.fixture
def stranger(make_user: Callable[[str], User], tmp_path: Path) -> tuple[User, str]:
    """Somebody who is logged in nowhere, and a path that they built."""
    user = make_user("stranger")
    return user, PrivateNix(tmp_path / "root", user.environment).build(CLOSURE, "base")


def best_effort(stranger: tuple[User, str], url: str, *options: str) -> Done:
    user, path = stranger
    done = user.try_icehouse("push", url, path, "--best-effort", *options)
    assert done.code == 0
    assert re.search(rf"^icehouse: (Not|Nothing was) pushed to {re.escape(url)}(: |\.$)", done.err, re.MULTILINE)
    assert "Traceback" not in done.err
    return done


def test_best_effort_says_why_and_leaves_with_0_where_nobody_listens(stranger: tuple[User, str]) -> None:
    done = best_effort(stranger, "http://127.0.0.1:9/a", "--json")
    assert "127.0.0.1:9 cannot be reached" in done.json["error"]
    assert done.err.count("\n") == 2


def test_best_effort_waits_no_longer_than_it_may_for_a_server_that_never_answers(stranger: tuple[User, str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # connections are taken by the kernel, and by nobody else
        done = best_effort(stranger, f"http://127.0.0.1:{silent.getsockname()[1]}/a", TIGHT)
    assert "the push was given up after 2s, as --timeout says" in done.err


@pytest.mark.parametrize(
    "answer",
    [(200, {}, b"<html>"), (404, {}, b"<html>"), (502, {"Retry-After": "900"}, b"<html>"), (302, {}, b"")],
    ids=["html", "404", "502", "redirect"],
)
def test_best_effort_leaves_with_0_where_another_program_answers(
    stranger: tuple[User, str], scripted: Callable[..., ScriptedServer], answer: Answer
) -> None:
    server = scripted(*[answer] * 50)
    best_effort(stranger, f"{server.url}/a")


def test_best_effort_ends_in_time_also_where_nix_hangs(stranger: tuple[User, str], tmp_path: Path) -> None:
    user, path = stranger
    programs = tmp_path / "programs"
    programs.mkdir()
    (programs / "nix").write_text(f"#!/bin/sh\necho $$ > {tmp_path}/pid\nexec sleep 600\n")
    (programs / "nix").chmod(0o755)
    hanging = User(user.home, {**user.environment, "PATH": f"{programs}:{user.environment['PATH']}"})
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/a"
        done = hanging.try_icehouse("push", url, path, "--best-effort", "--timeout=1s")
    os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)
    assert done.code == 0
    assert done.err.splitlines() == [
        "icehouse: the push was given up after 1s, as --timeout says",
        f"icehouse: Nothing was pushed to {url}.",
        "icehouse: the time is over, and something that reads the store does not end: leaving",
    ]


def test_best_effort_leaves_with_0_where_the_server_dies_meanwhile(
    admin: User, builder: PrivateNix, server: ServerProcess, caches: tuple[str, str], pushed_from: tuple[str, ...]
) -> None:
    top, large = builder.build(CLOSURE, "top"), builder.build(CLOSURE, "large")
    options = ("--best-effort", "--timeout", "12s", "--limit-rate", "400KiB", "--verbose", "--json")
    push = admin.start("push", caches[0], *pushed_from, top, *options)
    assert push.stdout is not None
    assert push.stderr is not None
    for line in push.stderr:
        if f"/caches/{caches[0]}/packs" in line:  # one of several packs has arrived
            break
    else:
        pytest.fail("the push was over before a pack had arrived")
    server.stop(signal.SIGKILL)
    out, err = push.communicate()
    assert push.returncode == 0
    told = json.loads(out)
    assert told["error"] is not None
    assert Path(large).name in told["not_pushed"]
    assert Path(top).name in told["not_pushed"]
    assert f"icehouse: Not pushed to {caches[0]}: " in err
    server.start()
    assert admin.icehouse("push", caches[0], *pushed_from, top, "--json").json["not_pushed"] == []


def test_without_best_effort_a_push_that_takes_too_long_fails(stranger: tuple[User, str]) -> None:
    user, path = stranger
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/a"
        done = user.try_icehouse("push", url, path, TIGHT)
    assert (done.code, done.out) == (5, "")
    assert done.err == "icehouse: the push was given up after 2s, as --timeout says\n"


@pytest.mark.usefixtures("caches")
def test_what_a_push_had_not_published_when_it_broke_off_is_named(
    admin: User, builder: PrivateNix, pushed_from: tuple[str, ...]
) -> None:
    top = builder.build(CLOSURE, "top")
    files = builder.root / "nix/store" / Path(builder.build(CLOSURE, "large")).name
    files.chmod(0o644)
    files.write_bytes(files.read_bytes()[:-8])  # not what Nix wrote down
    done = admin.try_icehouse("push", "one", *pushed_from, top, "--best-effort", "--json")
    assert done.code == 0
    assert "the store is damaged" in done.json["error"]
    assert Path(top).name in done.json["not_pushed"]
    assert files.name in done.json["not_pushed"]
    (told,) = (line for line in done.err.splitlines() if line.startswith("icehouse: Not pushed to one: "))
    assert files.name in told  # in the order of the hashes, which depend on the store's folder


@pytest.mark.usefixtures("caches")
def test_a_job_page_of_a_ci_gets_a_summary(
    admin: User, builder: PrivateNix, pushed_from: tuple[str, ...], tmp_path: Path
) -> None:
    page = tmp_path / "summary.md"
    page.write_text("before\n")
    user = User(admin.home, {**admin.environment, "GITHUB_STEP_SUMMARY": str(page)})
    base = builder.build(CLOSURE, "base")
    user.icehouse("push", "one", *pushed_from, base)
    user.icehouse("push", "one", *pushed_from, base, "--to", "ab|<b>sent", "--best-effort")
    lines = page.read_text().splitlines()
    assert lines[0] == "before"
    assert sum(line.startswith("| `one` | 1 of 1 | 0 | 0 | 0 | ") for line in lines) == 1
    assert sum(line.startswith("| `one` | 0 of 0 | 1 | 0 | 0 | ") for line in lines) == 1
    assert any(line.startswith("| `ab&#124;&#60;b&#62;sent` | 0 of 0 |") for line in lines)
    unwritable = User(admin.home, {**admin.environment, "GITHUB_STEP_SUMMARY": str(tmp_path / "no/such")})
    assert "cannot be written" in unwritable.icehouse("push", "one", *pushed_from, base).err


@pytest.fixture
def line_user(line: str, server: ServerProcess, tmp_path: Path) -> tuple[NixClient, User]:
    """A user of each version of Nix who is logged in."""
    client = NixClient.make(line, tmp_path / "client")
    user = User(client.home, client.environment)
    user.icehouse("login", server.url, "--token-file", str(server.data_dir / "admin-token"))
    user.icehouse("cache", "create", "c", "--store-dir", client.environment["NIX_STORE_DIR"], "--no-upstream")
    return client, user


def test_derivations_and_build_closures_are_pushed_with_each_nix(line_user: tuple[NixClient, User]) -> None:
    client, user = line_user
    top = client.build(BUILD, "top")
    store = ("--store", str(client.root))
    derivation = client.run("nix-store", *store, "-qd", top)

    def names(*what: str) -> list[str]:
        told = user.icehouse("push", "c", *store, "--dry-run", "--json", *what).json
        return sorted(each["store_path"].partition("-")[2] for each in told["to_push"])

    assert names(top) == names(f"{derivation}^*") == ["parts", "top"]
    assert names(derivation) == ["parts.drv", "some-source", "tool.drv", "top.drv"]
    needed = ["parts", "parts-dev", "some-source", "tool", "top"]
    assert names(top, "--build-closure") == names(f"{derivation}^out", "--build-closure") == needed
    everything = sorted([*needed, "parts.drv", "tool.drv", "top.drv"])
    assert names(derivation, "--build-closure") == everything
    done = user.icehouse(
        "push", "c", *store, "--wait", "--json", "--build-closure", stdin=f"{derivation}\n{top}\n"
    ).json
    assert done["paths_pushed"] == len(everything)

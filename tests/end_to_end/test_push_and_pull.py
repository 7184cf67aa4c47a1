"""The main job: a closure is pushed with our command line and pulled with stock Nix."""

import filecmp
import os
import random
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.client.private_nix import CLOSURE, PrivateNix
from tests.end_to_end.conftest import ServerProcess, User

pytestmark = pytest.mark.end_to_end

ODD = """
{ odd = derivation {
  name = "odd"; system = builtins.currentSystem; builder = "/bin/sh"; PATH = "/usr/bin:/bin";
  args = [ "-c" ''
    mkdir -p $out/dir/empty && cd $out
    echo '#!/bin/sh' > run && chmod +x run
    : > empty-file; echo x > 'h\u00f6her \u96ea'; ln -s dir/empty link; ln -s /nowhere dangling
    head -c 3000000 /dev/urandom > random
    echo $out $out > self
  '' ];
}; }
"""


def big(count: int, megabytes: int) -> str:
    """An expression whose closure is random files: nothing of it can be shared or compressed."""
    return f"""
    let
      make = name: script: derivation {{
        inherit name; system = builtins.currentSystem; builder = "/bin/sh";
        args = [ "-c" script ]; PATH = "/usr/bin:/bin";
      }};
      part = number: make "part-${{toString number}}" "head -c {megabytes}000000 /dev/urandom > $out";
    in {{ top = make "top" "echo ${{toString (builtins.genList part {count})}} > $out"; }}
    """


def pull(user: User, root: Path, url: str, key: str, path: str) -> subprocess.CompletedProcess[str]:
    """Let stock Nix substitute *path* into an empty store, with signatures required."""
    command = ["nix-store", "--store", str(root), "-r", path, "--option", "substitute", "true"]
    command += ["--option", "substituters", url, "--option", "trusted-public-keys", key]
    command += ["--option", "require-sigs", "true"]
    return subprocess.run(command, env=user.environment, capture_output=True, text=True, check=False)


def dump(root: Path, path: str) -> bytes:
    files = root / "nix/store" / Path(path).name
    return subprocess.run(["nix-store", "--dump", files], check=True, capture_output=True).stdout


def closure_of(nix: PrivateNix, path: str) -> list[str]:
    return nix.run("nix-store", "--store", str(nix.root), "-qR", path).splitlines()


def create(admin: User, name: str, *options: str) -> tuple[str, str]:
    """A new cache; its URL and its key."""
    store_dir = admin.environment["NIX_STORE_DIR"]
    view = admin.icehouse("cache", "create", name, "--store-dir", store_dir, *options, "--json").json
    return view["url"], view["public_keys"][0]


def test_a_pushed_closure_is_pulled_byte_for_byte_with_its_signatures_checked(
    admin: User, builder: PrivateNix, tmp_path: Path
) -> None:
    url, key = create(admin, "pub", "--public")
    paths = [
        builder.build(CLOSURE, "top"),
        builder.run("nix-build", "--no-out-link", "--store", str(builder.root), "-E", ODD),
    ]
    summary = admin.icehouse("push", "pub", "--store", str(builder.root), *paths, "--json").json
    closure = [path for top in paths for path in closure_of(builder, top)]
    assert (summary["paths"], summary["paths_pushed"]) == (len(closure), len(closure))
    for top in paths:
        done = pull(admin, tmp_path / "pulled", url, key, top)
        assert done.returncode == 0, done.stderr
    for path in closure:
        assert dump(tmp_path / "pulled", path) == dump(builder.root, path)


@pytest.mark.long
def test_a_file_of_a_gibibyte_is_pulled_byte_for_byte(admin: User, builder: PrivateNix, tmp_path: Path) -> None:
    url, key = create(admin, "pub", "--public")
    large = tmp_path / "large"
    with large.open("wb") as file:
        generator = random.Random(1)
        for _ in range(1024):
            file.write(generator.randbytes(512 * 1024) + bytes(512 * 1024))
    path = builder.run("nix-store", "--store", str(builder.root), "--add", str(large))
    admin.icehouse("push", "pub", "--store", str(builder.root), path)
    done = pull(admin, tmp_path / "pulled", url, key, path)
    assert done.returncode == 0, done.stderr
    assert filecmp.cmp(tmp_path / "pulled/nix/store" / Path(path).name, large, shallow=False)


def test_a_path_is_refused_without_the_key_that_signed_it(admin: User, builder: PrivateNix, tmp_path: Path) -> None:
    url, _ = create(admin, "pub", "--public")
    _, other_key = create(admin, "other", "--public")
    top = builder.build(CLOSURE, "top")
    admin.icehouse("push", "pub", "--store", str(builder.root), top)
    done = pull(admin, tmp_path / "pulled", url, other_key, top)
    assert done.returncode != 0
    assert "not signed by any of the keys" in done.stderr, done.stderr


def test_a_path_whose_nar_was_altered_is_refused(
    admin: User, server: ServerProcess, builder: PrivateNix, tmp_path: Path
) -> None:
    url, key = create(admin, "pub", "--public")
    top = builder.build(big(1, 1), "top")
    admin.icehouse("push", "pub", "--store", str(builder.root), top)
    pack = next(file for file in (server.data_dir / "packs").rglob("*") if file.is_file())
    data = bytearray(pack.read_bytes())
    data[len(data) // 2] ^= 0xFF  # among random bytes, which zstd keeps as they are: the stream stays well formed
    pack.write_bytes(data)
    done = pull(admin, tmp_path / "pulled", url, key, top)
    assert done.returncode != 0
    assert "hash mismatch" in done.stderr, done.stderr


def test_a_second_push_sends_no_chunk(admin: User, builder: PrivateNix) -> None:
    create(admin, "pub", "--public")
    top = builder.build(CLOSURE, "top")
    admin.icehouse("push", "pub", "--store", str(builder.root), top)
    summary = admin.icehouse("push", "pub", "--store", str(builder.root), "--json", stdin=f"{top}\n").json
    assert (summary["paths_present"], summary["paths_pushed"]) == (3, 0)
    assert (summary["new_bytes"], summary["stored_bytes"]) == (0, 0)


def test_a_rebuild_adds_next_to_nothing(admin: User, builder: PrivateNix) -> None:
    create(admin, "pub", "--public")
    expression = """
    let make = name: salt: script: derivation {{
      inherit name salt; system = builtins.currentSystem; builder = "/bin/sh";
      args = [ "-c" script ]; PATH = "/usr/bin:/bin";
    }};
    base = make "base" "{salt}" "cp /bin/sh $out; echo $salt >> $out";
    script = "mkdir $out; cd $out; seq -f '%.0f ${{base}} and more' 30000 > many; cp /bin/sh .; echo $out > self";
    in {{ top = make "top" "" script; }}
    """
    first = builder.build(expression.format(salt="1"), "top")
    second = builder.build(expression.format(salt="2"), "top")
    admin.icehouse("push", "pub", "--store", str(builder.root), first)
    before = admin.icehouse("cache", "show", "pub", "--json").json["stored_bytes"]
    summary = admin.icehouse("push", "pub", "--store", str(builder.root), second, "--json").json
    assert summary["paths_pushed"] == 2
    assert summary["stored_bytes"] < 0.7 * before  # the base really differs; the large file that refers to it does not


def test_an_interrupted_push_goes_on_where_it_stopped(admin: User, builder: PrivateNix) -> None:
    create(admin, "pub", "--public")
    top = builder.build(big(24, 4), "top")
    running = admin.start("push", "pub", "--store", str(builder.root), top)
    stored = 0
    while running.poll() is None and stored == 0:
        stored = int(admin.icehouse("cache", "show", "pub", "--json").json["paths"])
    running.kill()
    running.communicate()
    summary = admin.icehouse("push", "pub", "--store", str(builder.root), top, "--json").json
    assert summary["paths_present"] + summary["paths_pushed"] == 25
    assert summary["new_bytes"] < 24 * 4_000_000


def test_ctrl_c_stops_a_push_with_one_line_and_its_own_exit_code(
    admin: User, server: ServerProcess, builder: PrivateNix
) -> None:
    top = builder.build(big(24, 4), "top")
    for number, awaited in enumerate(("/missing", "/chunks/missing", "/packs", "/nars", "/paths")):
        create(admin, f"private-{number}")  # none has anything of the others
        running = admin.start("push", f"private-{number}", "--store", str(builder.root), top)
        request = f"/caches/private-{number}{awaited}"
        while running.poll() is None and request not in server.log.read_text():
            os.sched_yield()
        running.send_signal(signal.SIGINT)
        _, err = running.communicate(timeout=60)
        if running.returncode != 0:  # it may have been done already
            assert (running.returncode, err) == (130, "icehouse: interrupted\n"), awaited


def test_a_server_that_restarts_does_not_stop_a_push(admin: User, server: ServerProcess, builder: PrivateNix) -> None:
    create(admin, "pub", "--public")
    top = builder.build(big(16, 4), "top")
    running = admin.start("push", "pub", "--store", str(builder.root), top, "--json")
    while running.poll() is None and not list((server.data_dir / "packs").rglob("*")):
        os.sched_yield()
    server.stop(signal.SIGKILL)
    server.start()
    _, err = running.communicate(timeout=120)
    assert running.returncode == 0, err
    assert admin.icehouse("cache", "show", "pub", "--json").json["paths"] == 17


def test_a_private_cache_is_pulled_with_netrc_and_looks_absent_without(
    admin: User, builder: PrivateNix, make_user: Callable[[str], User], tmp_path: Path
) -> None:
    url, key = create(admin, "secret")
    top = builder.build(CLOSURE, "top")
    admin.icehouse("push", "secret", "--store", str(builder.root), top)
    stranger = make_user("stranger")
    assert pull(stranger, tmp_path / "stranger", url, key, top).returncode != 0
    token = admin.icehouse("token", "create", "reader", "--allow", "pull", "--caches", "secret", "-q").out.strip()
    friend = make_user("friend")
    friend.icehouse("login", url.rpartition("/")[0], "--token", token)
    friend.icehouse("use", "secret")
    command = ["nix-store", "--store", str(tmp_path / "friend"), "-r", top, "--option", "substitute", "true"]
    done = friend.try_nix(*command, "--option", "require-sigs", "true")
    assert done.code == 0, done.err
    assert dump(tmp_path / "friend", top) == dump(builder.root, top)


def test_a_changed_file_in_the_local_store_is_refused(admin: User, builder: PrivateNix) -> None:
    create(admin, "pub", "--public")
    top = builder.build(CLOSURE, "top")
    changed = Path(top) / "bin/top"
    text = changed.read_text()
    changed.chmod(0o755)
    changed.write_text(text.swapcase())
    done = admin.try_icehouse("push", "pub", "--store", str(builder.root), top)
    assert (done.code, "Traceback" in done.err) == (1, False)
    assert "the server refuses its NAR" in done.err
    changed.write_text(text + "more")
    done = admin.try_icehouse("push", "pub", "--store", str(builder.root), top)
    assert (done.code, "nix-store --verify-path" in done.err) == (1, True)
    assert admin.try_icehouse("path", "info", "pub", top).code == 4


def test_verify_sends_again_what_was_damaged_on_the_server(
    admin: User, server: ServerProcess, builder: PrivateNix, tmp_path: Path
) -> None:
    url, key = create(admin, "pub", "--public")
    top = builder.build(CLOSURE, "top")
    admin.icehouse("push", "pub", "--store", str(builder.root), top)
    server.stop()
    pack = next(file for file in (server.data_dir / "packs").rglob("*") if file.is_file())
    data = bytearray(pack.read_bytes())
    for at in range(20, 60):
        data[at] ^= 0xFF
    pack.chmod(0o644)
    pack.write_bytes(data)
    server.start()
    summary = admin.icehouse("push", "pub", "--store", str(builder.root), "--verify", top, "--json").json
    assert summary["paths_present"] == 3
    assert summary["new_bytes"] > 0
    done = pull(admin, tmp_path / "pulled", url, key, top)
    assert done.returncode == 0, done.stderr


def test_paths_that_an_upstream_signed_are_not_sent(admin: User, builder: PrivateNix, tmp_path: Path) -> None:
    secret, public = tmp_path / "up.secret", tmp_path / "up.public"
    builder.run("nix-store", "--generate-binary-cache-key", "up-1", str(secret), str(public))
    create(admin, "pub", "--public", "--upstream", f"https://up.example.org {public.read_text().strip()}")
    base, top = builder.build(CLOSURE, "base"), builder.build(CLOSURE, "top")
    nix = ["nix", "--extra-experimental-features", "nix-command", "store", "sign", "--store", str(builder.root)]
    builder.run(*nix, "--key-file", str(secret), base)
    summary = admin.icehouse("push", "pub", "--store", str(builder.root), top, "--json").json
    assert (summary["paths_upstream"], summary["paths_pushed"]) == (1, 2)
    done = admin.try_icehouse("path", "info", "pub", base)
    assert (done.code, "upstream" in done.err or "external" in done.err) == (4, True), done


def test_path_info_takes_what_push_takes(admin: User, builder: PrivateNix) -> None:
    create(admin, "pub", "--public")
    base = builder.build(CLOSURE, "base")
    admin.icehouse("push", "pub", "--store", str(builder.root), base)
    result = admin.home / "result"
    result.symlink_to(base)
    user = User(admin.home, {**admin.environment, "NIX_REMOTE": str(builder.root)})
    for text in (str(result), base, f"{base}/file", Path(base).name, Path(base).name[:32]):
        assert user.icehouse("path", "info", "pub", text, "--json").json["store_path"] == Path(base).name
    assert user.try_icehouse("path", "info", "pub", "./no-such-result").code == 4


def test_whoever_may_not_push_is_told_so(
    admin: User, builder: PrivateNix, server: ServerProcess, make_user: Callable[[str], User]
) -> None:
    create(admin, "pub", "--public")
    top = builder.build(CLOSURE, "base")
    admin.icehouse("push", "pub", "--store", str(builder.root), top)  # with nothing left to push it must be told too
    token = admin.icehouse("token", "create", "reader", "--allow", "pull", "--caches", "*", "-q").out.strip()
    for arguments in (["--token", token], []):
        user = make_user(f"user{len(arguments)}")
        user.icehouse("login", server.url, *arguments)
        done = user.try_icehouse("push", "pub", "--store", str(builder.root), top)
        assert (done.code, done.err.count("\n")) == (3, 1), done

"""The spool, and the script that fills it, run by a real sh."""

import os
import subprocess
import tempfile
from pathlib import Path

import pytest

from icehouse.client.hook_script import render_hook
from icehouse.client.spool import MAX_FILE_BYTES, Spool, make_spool
from icehouse.errors import Conflict, InvalidFormat
from icehouse.nix.store_paths import NIX_STORE, StorePath

NAMES = [f"{letter * 32}-{letter}" for letter in "abc"]
PATHS = [StorePath.parse(name) for name in NAMES]
FULL = [path.full(NIX_STORE) for path in PATHS]


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    return make_spool(tmp_path / "spool", daemon_user=os.geteuid(), daemon_group=os.getegid())


def run_hook(folder: Path, script: Path, **environment: str) -> subprocess.CompletedProcess[bytes]:
    script.write_text(render_hook(folder))
    script.chmod(0o755)
    environment = {"PATH": "/usr/bin:/bin", "DRV_PATH": f"/nix/store/{NAMES[0]}.drv", **environment}
    return subprocess.run([script], env=environment, capture_output=True, check=False)


def names_in(spool: Spool) -> list[str]:
    return sorted(path.name for file in spool.read(NIX_STORE, 100) for path in file.outputs)


def test_what_the_hook_is_told_arrives_whole(spool: Spool, tmp_path: Path) -> None:
    done = run_hook(spool.folder, tmp_path / "hook", OUT_PATHS=" ".join(FULL[:2]))
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    [file] = spool.read(NIX_STORE, 100)
    assert file.derivation == StorePath.parse(f"{NAMES[0]}.drv")
    assert file.outputs == tuple(PATHS[:2])
    assert list((spool.folder / "tmp").iterdir()) == []
    assert spool.remove(file)
    assert spool.read(NIX_STORE, 100) == []


def test_names_are_data_to_the_hook(spool: Spool, tmp_path: Path) -> None:
    bait = f"{FULL[0]} $(touch {tmp_path}/bait) `touch {tmp_path}/bait` * ; touch {tmp_path}/bait"
    derivation = f"/nix/store/../../$(touch {tmp_path}/bait);touch bait-x.drv"
    done = run_hook(spool.folder, tmp_path / "hook", OUT_PATHS=bait, DRV_PATH=derivation)
    assert done.returncode == 0
    assert not (tmp_path / "bait").exists()
    assert names_in(spool) == ["a"]


@pytest.mark.parametrize("kept", ["nothing", "no new", "a file", "a full disk"])
def test_the_hook_fails_no_build(spool: Spool, tmp_path: Path, kept: str) -> None:
    folder = spool.folder
    if kept == "no new":
        spool.new.rmdir()
    elif kept == "a full disk":
        (folder / "tmp").rmdir()
        (folder / "tmp").symlink_to("/dev/full")
    else:
        folder = tmp_path / "elsewhere"
        if kept == "a file":
            folder.touch()
    done = run_hook(folder, tmp_path / "hook", OUT_PATHS=FULL[0])
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    if kept == "no new":
        assert list((folder / "tmp").iterdir()) == []


def test_the_hook_fails_no_build_when_it_is_told_nothing(spool: Spool, tmp_path: Path) -> None:
    assert run_hook(spool.folder, tmp_path / "hook", PATH="").returncode == 0


def test_a_symlink_in_the_way_of_the_hook_is_replaced_and_not_followed(spool: Spool, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.mkdir()
    script = tmp_path / "hook"
    script.write_text(render_hook(spool.folder).replace("$$", "1"))  # a number that somebody guessed
    script.chmod(0o755)
    (spool.new / f"{'a' * 32}.1").symlink_to(victim)
    environment = {"PATH": "/usr/bin:/bin", "DRV_PATH": f"/nix/store/{NAMES[0]}.drv", "OUT_PATHS": FULL[1]}
    subprocess.run([script], env=environment, check=True)
    assert list(victim.iterdir()) == []
    assert names_in(spool) == ["b"]


def test_what_is_none_of_the_hooks_names_no_paths(spool: Spool, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text(FULL[0])
    (spool.new / "link").symlink_to(secret)
    (spool.new / "folder").mkdir()
    os.mkfifo(spool.new / "fifo")
    (spool.new / "large").write_text(f"{FULL[0]}\n" * (MAX_FILE_BYTES // 30))
    (spool.new / "odd").write_bytes(b"/nix/store/../etc/passwd \xff\x00 /etc/passwd " + FULL[2].encode())
    assert names_in(spool) == ["c"]


def test_a_spool_that_others_could_tamper_with_is_refused(tmp_path: Path) -> None:
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    (tmp_path / "link").symlink_to(tmp_path / "open")
    for name, message in (("open", "tamper"), ("link", "no folder")):
        with pytest.raises(Conflict, match=message):
            make_spool(tmp_path / name, daemon_user=os.geteuid(), daemon_group=os.getegid())


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives folders away")
def test_a_daemon_of_another_user_gets_the_new_files_and_nothing_else(tmp_path: Path) -> None:
    make_spool(tmp_path / "spool", daemon_user=0, daemon_group=0)
    spool = make_spool(tmp_path / "spool", daemon_user=65534, daemon_group=65534)
    assert make_spool(tmp_path / "spool", daemon_user=65534, daemon_group=65534) == spool
    owners = {path: (path.stat().st_uid, path.stat().st_mode & 0o777) for path in spool.folder.iterdir()}
    assert owners == {spool.folder / "tmp": (0, 0o700), spool.new: (65534, 0o700)}
    assert (spool.folder.stat().st_uid, spool.folder.stat().st_mode & 0o777) == (0, 0o755)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be two users")
def test_a_daemon_of_another_user_can_take_files_and_tamper_with_nothing() -> None:
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name:  # pytest's own folders are closed to others
        folder = Path(name)
        folder.chmod(0o755)
        spool = make_spool(folder / "spool", daemon_user=65534, daemon_group=65534)
        run_hook(spool.folder, folder / "hook", OUT_PATHS=FULL[0])
        [file] = spool.new.iterdir()

        def as_daemon(*command: str | Path) -> int:
            return subprocess.run(
                command, user=65534, group=65534, extra_groups=[], capture_output=True, check=False
            ).returncode

        assert as_daemon("touch", spool.folder / "tmp" / "x") != 0
        assert as_daemon("mv", spool.new, spool.folder / "old") != 0
        assert as_daemon("cat", file) == 0
        assert as_daemon("rm", "-f", file) == 0


def test_a_folder_that_would_mean_something_in_a_script_is_refused() -> None:
    with pytest.raises(InvalidFormat, match="expected a whole path"):
        render_hook(Path("/var/spool/it's"))

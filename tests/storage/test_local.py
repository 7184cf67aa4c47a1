"""`LocalBlobStore` beyond the contract: its files, full disks, other file systems. `tests/crashes` has its deaths."""

import gc
import os
import re
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import pytest

from icehouse.errors import Conflict, Corrupt, InvalidFormat, NotFound, OverQuota, Unavailable
from icehouse.storage.blobs import BlobKey, BlobStore
from icehouse.storage.local import LocalBlobStore

KEY = BlobKey("packs/1/4f/4f00")
OTHER_KEY = BlobKey("packs/1/4f/4f01")
SIZE = 100_000
PUT = f"""
from pathlib import Path
from sys import argv
from icehouse.storage.local import LocalBlobStore
LocalBlobStore(Path(argv[1])).put("{KEY}", bytes({SIZE}))
"""


def read(store: BlobStore, key: BlobKey) -> bytes:
    buffer = bytearray(store.size(key))
    store.read_into(key, 0, memoryview(buffer))
    return bytes(buffer)


def open_below(folder: Path) -> list[str]:
    """The files below *folder* that this process has open."""
    links = [Path(f"/proc/self/fd/{name}") for name in os.listdir("/proc/self/fd")]  # noqa: PTH208
    return [
        str(link.readlink()) for link in links if link.is_symlink() and str(link.readlink()).startswith(str(folder))
    ]


def test_files_and_folders_are_for_their_owner_only(tmp_path: Path) -> None:
    folder = tmp_path / "data" / "blobs"
    store = LocalBlobStore(folder)
    store.put(KEY, b"abc")
    writer = store.create()
    modes = {(path.is_dir(), path.stat().st_mode & 0o777) for path in tmp_path.rglob("*")}
    assert modes == {(True, 0o700), (False, 0o600)}
    writer.abort()


def test_file_has_the_name_of_the_key_and_only_that(tmp_path: Path) -> None:
    LocalBlobStore(tmp_path).put(KEY, b"abc")
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert files == [tmp_path / KEY]
    assert files[0].stat().st_nlink == 1


def test_another_store_over_the_folder_has_the_same_blobs(tmp_path: Path) -> None:
    LocalBlobStore(tmp_path).put(KEY, b"abc")
    assert read(LocalBlobStore(tmp_path), KEY) == b"abc"


def test_files_that_are_no_blobs_are_neither_listed_nor_reachable(tmp_path: Path) -> None:
    store = LocalBlobStore(tmp_path)
    store.put(KEY, b"abc")
    (tmp_path / "icehouse.db").write_bytes(b"rows")
    (tmp_path / "lost+found").mkdir()
    (tmp_path / "packs" / "Notes.TXT").write_bytes(b"notes")
    (tmp_path / "packs" / "link").symlink_to(tmp_path / "icehouse.db")
    (tmp_path / "packs" / "loop").symlink_to(tmp_path)
    assert [info.key for info in store.list()] == [KEY]
    with pytest.raises(InvalidFormat):
        store.delete(BlobKey("icehouse.db"))


def test_folder_or_blob_in_the_place_of_the_other_is_a_conflict(tmp_path: Path) -> None:
    store = LocalBlobStore(tmp_path)
    store.put(KEY, b"abc")
    with pytest.raises(Conflict, match="folder"):
        store.put(BlobKey("packs/1/4f"), b"def")
    for below in (BlobKey(f"{KEY}/below"), BlobKey(f"{KEY}/far/below")):
        with pytest.raises(Conflict, match="another blob"):
            store.put(below, b"def")
    assert [(info.key, info.size_bytes) for info in store.list()] == [(KEY, 3)]
    store.delete(KEY)
    store.put(BlobKey(f"{KEY}/below"), b"def")
    assert [info.key for info in store.list()] == [f"{KEY}/below"]


def test_folders_removed_by_hand_are_made_again(tmp_path: Path) -> None:
    store = LocalBlobStore(tmp_path)
    store.put(KEY, b"abc")
    shutil.rmtree(tmp_path / "packs")
    store.put(OTHER_KEY, b"def")
    assert read(store, OTHER_KEY) == b"def"


def test_blob_that_was_cut_short_is_corrupt(tmp_path: Path) -> None:
    store = LocalBlobStore(tmp_path)
    store.put(KEY, bytes(10_000))
    os.truncate(tmp_path / KEY, 5_000)
    with pytest.raises(Corrupt, match=KEY):
        store.read_into(KEY, 0, memoryview(bytearray(10_000)))
    assert not store.read_warm(KEY, 0, memoryview(bytearray(10_000)))


def test_storing_what_is_there_makes_it_new_to_a_collection(tmp_path: Path) -> None:
    store = LocalBlobStore(tmp_path)
    store.put(KEY, b"abc")
    os.utime(tmp_path / KEY, (1_000, 1_000))
    store.put(KEY, b"abc")
    (info,) = store.list()
    assert info.modified_at > 1_000


def test_folder_that_cannot_be_made_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(Unavailable, match="folder for blobs"):
        LocalBlobStore(tmp_path / "file" / "blobs")


# Open files


def test_warm_read_is_false_until_the_file_is_open(tmp_path: Path) -> None:
    store = LocalBlobStore(tmp_path)
    store.put(KEY, b"abc")
    assert not store.read_warm(KEY, 0, memoryview(bytearray(3)))
    assert open_below(tmp_path) == []
    assert read(store, KEY) == b"abc"
    assert open_below(tmp_path) == [str(tmp_path / KEY)]


def test_no_more_files_stay_open_than_allowed_and_the_used_ones_stay(tmp_path: Path) -> None:
    store = LocalBlobStore(tmp_path, max_open_files=4)
    used = BlobKey("packs/used")
    store.put(used, b"used")
    for number in range(40):
        key = BlobKey(f"packs/{number}")
        store.put(key, b"abc")
        assert read(store, used) == b"used"
        assert read(store, key) == b"abc"
        assert len(open_below(tmp_path)) <= 4
    assert str(tmp_path / used) in open_below(tmp_path)


def test_deleted_blob_frees_its_bytes(tmp_path: Path) -> None:
    store = LocalBlobStore(tmp_path)
    store.put(KEY, b"abc")
    assert read(store, KEY) == b"abc"
    store.delete(KEY)
    assert open_below(tmp_path) == []


def test_replaced_blob_frees_its_bytes_and_is_read_anew(tmp_path: Path) -> None:
    store = LocalBlobStore(tmp_path)
    store.put(KEY, b"abc")
    assert read(store, KEY) == b"abc"
    store.put(KEY, b"def")
    assert open_below(tmp_path) == []
    assert read(store, KEY) == b"def"


def test_part_of_a_blob_stays_readable_whatever_becomes_of_the_blob(tmp_path: Path) -> None:
    store = LocalBlobStore(tmp_path, max_open_files=1)
    store.put(KEY, b"x" * 5000 + b"abc" * 2000)
    assert store.find_warm(KEY, 0, 10) is None, "to open it may wait"
    read(store, KEY)
    for offset, size in ((0, 11_001), (11_000, 1), (-1, 1), (0, 0), (9000, 9000)):
        assert store.find_warm(KEY, offset, size) is None
    part = store.find_warm(KEY, 5000, 6000)
    if part is None:
        pytest.skip("this kernel does not tell what is in memory")
    store.put(OTHER_KEY, b"other")
    read(store, OTHER_KEY)
    store.delete(KEY)
    assert store.find_warm(KEY, 5000, 6000) is None
    gc.collect()
    assert os.pread(part.descriptor, part.size, part.offset) == b"abc" * 2000
    del part
    assert [Path(path).name for path in open_below(tmp_path)] == [Path(OTHER_KEY).name]


def test_blob_replaced_while_it_is_opened_is_not_kept_open(tmp_path: Path) -> None:
    store = LocalBlobStore(tmp_path)
    store.put(KEY, b"abc")
    buffer = bytearray(3)
    with just_before("fstat", lambda: store.put(KEY, b"def")):
        store.read_into(KEY, 0, memoryview(buffer))
    assert buffer == b"abc"
    assert open_below(tmp_path) == []
    assert read(store, KEY) == b"def"


def test_blob_replaced_or_deleted_by_another_process_is_not_read_from_the_file_kept_open(tmp_path: Path) -> None:
    store, other = LocalBlobStore(tmp_path), LocalBlobStore(tmp_path)
    store.put(KEY, b"abc")
    buffer = memoryview(bytearray(3))
    store.read_into(KEY, 0, buffer)
    other.put(KEY, b"def")
    assert not store.read_warm(KEY, 0, buffer)
    assert read(store, KEY) == b"def"
    other.delete(KEY)
    assert not store.read_warm(KEY, 0, buffer)
    with pytest.raises(NotFound):
        store.read_into(KEY, 0, buffer)
    assert open_below(tmp_path) == []


@contextmanager
def just_before(call: str, act: Callable[[], None]) -> Generator[None]:
    """Let *act* happen just before the block's first *call* of the operating system, as another thread could."""
    acted = False

    def look(_frame: FrameType, event: str, called: object) -> None:
        nonlocal acted
        if event == "c_call" and getattr(called, "__name__", None) == call and not acted:
            acted = True
            act()

    before = sys.getprofile()
    sys.setprofile(look)
    try:
        yield
    finally:
        sys.setprofile(before)
    assert acted


def test_blob_deleted_while_it_is_opened_is_not_kept_open(tmp_path: Path) -> None:
    store = LocalBlobStore(tmp_path)
    store.put(KEY, b"abc")
    buffer = bytearray(3)
    with just_before("fstat", lambda: store.delete(KEY)):
        store.read_into(KEY, 0, memoryview(buffer))
    assert buffer == b"abc"
    assert open_below(tmp_path) == []
    with pytest.raises(NotFound):
        store.read_into(KEY, 0, memoryview(buffer))


@pytest.mark.parametrize("way", ["deleted", "evicted"])
def test_file_closed_by_others_before_it_is_read_gives_its_own_bytes(tmp_path: Path, way: str) -> None:
    """The number of a file closed too early would go to the next file opened, and the read would give its bytes."""
    store = LocalBlobStore(tmp_path, max_open_files=1)
    store.put(KEY, b"abc")
    store.put(OTHER_KEY, b"def")
    assert read(store, KEY) == b"abc"

    def interfere() -> None:
        if way == "deleted":
            store.delete(KEY)
        assert read(store, OTHER_KEY) == b"def"

    buffer = bytearray(3)
    with just_before("preadv", interfere):
        store.read_into(KEY, 0, memoryview(buffer))
    assert buffer == b"abc"
    assert open_below(tmp_path) == [str(tmp_path / OTHER_KEY)]


def test_writers_and_stores_that_are_dropped_close_their_files(tmp_path: Path) -> None:
    store = LocalBlobStore(tmp_path)
    store.put(KEY, b"abc")
    assert read(store, KEY) == b"abc"
    writer = store.create()
    writer.write(b"abc")
    assert len(open_below(tmp_path)) == 2
    del writer
    assert [info.is_unfinished for info in store.list("unfinished/")] == [True]
    del store
    gc.collect()
    assert open_below(tmp_path) == []


# Warm reads on several file systems


def run_in_mount(folder: Path, mount: str, program: str) -> str:
    """Run Python's *program* with *folder* as its argument, in a mount namespace where the shell line *mount* ran."""
    script = f'set -e\n{mount}\nexec "$0" -c "$2" "$1"'
    identity = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    namespace = ["unshare", *identity, "--mount"]
    if subprocess.run(
        [*namespace, "sh", "-c", f"set -e\n{mount}", "-", folder], capture_output=True, check=False
    ).returncode:
        pytest.skip("this machine lets us mount nothing")
    done = subprocess.run(
        [*namespace, "sh", "-c", script, sys.executable, folder, program], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


READ_TWICE = """
import sys
from pathlib import Path
from icehouse.storage.local import LocalBlobStore
store = LocalBlobStore(Path(sys.argv[1]))
store.put("packs/1", bytes(range(256)))
buffer = bytearray(256)
store.read_into("packs/1", 0, memoryview(buffer))
assert buffer == bytes(range(256))
print(store.read_warm("packs/1", 0, memoryview(buffer)))
assert buffer == bytes(range(256))
"""


def test_files_in_memory_are_always_warm(tmp_path: Path) -> None:
    assert run_in_mount(tmp_path, 'mount -t tmpfs -o size=4m tmpfs "$1"', READ_TWICE) == "True"


def test_file_system_that_cannot_tell_is_never_warm(tmp_path: Path) -> None:
    """Overlay passes no RWF_NOWAIT on; should a kernel do so one day, the same reads are warm."""
    mount = (
        'mkdir -p "$1/merged" "$1/upper" "$1/work" "$1/lower"\n'
        'mount -t overlay -o "lowerdir=$1/lower,upperdir=$1/upper,workdir=$1/work" overlay "$1/merged"\n'
        'set -- "$1/merged" "$2"'
    )
    assert run_in_mount(tmp_path, mount, READ_TWICE) in {"True", "False"}


# Full disks

FILL = """
import sys
from pathlib import Path
from icehouse.errors import OverQuota
from icehouse.storage.local import LocalBlobStore
store = LocalBlobStore(Path(sys.argv[1]))
store.put("packs/0", bytes(100_000))
writer = store.create()
written = 0
try:
    while True:
        writer.write(bytes(64 * 1024))
        written += 64 * 1024
except OverQuota as error:
    print(error)
assert written > 512 * 1024, written
assert [info.key for info in store.list()] == ["packs/0"]
writer.abort()
store.put("packs/1", bytes(600_000))
assert store.size("packs/1") == 600_000
"""


def test_full_disk_is_over_quota_and_frees_what_was_written(tmp_path: Path) -> None:
    assert "No space left" in run_in_mount(tmp_path, 'mount -t tmpfs -o size=1m tmpfs "$1"', FILL)


def test_disk_without_room_for_names_is_over_quota(tmp_path: Path) -> None:
    fill = """
import sys
from pathlib import Path
from icehouse.errors import OverQuota
from icehouse.storage.local import LocalBlobStore
store = LocalBlobStore(Path(sys.argv[1]))
stored = 0
try:
    while True:
        store.put(f"packs/{stored}/{stored}", b"")
        stored += 1
except OverQuota as error:
    print(error)
assert len(list(store.list())) == stored > 3
store.delete("packs/0/0")
store.put("packs/0/again", b"")
"""
    assert "No space left" in run_in_mount(tmp_path, 'mount -t tmpfs -o nr_inodes=20 tmpfs "$1"', fill)


def test_limit_on_the_size_of_files_is_over_quota(tmp_path: Path) -> None:
    store = LocalBlobStore(tmp_path)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (SIZE, before[1]))
    try:
        writer = store.create()
        writer.write(bytes(SIZE))
        with pytest.raises(OverQuota):
            writer.write(b"x")
        with pytest.raises(OverQuota):
            store.put(KEY, bytes(SIZE + 1))
        assert list(store.list()) == []
        with pytest.raises(Conflict):
            writer.commit(KEY)
        store.put(KEY, bytes(SIZE))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert store.size(KEY) == SIZE


# Deaths


def traced_calls(require: Callable[[str], str], folder: Path) -> list[str]:
    """The calls that change files while a child puts `KEY`, as ``name path``, with *folder* left out of the paths."""
    record = folder.with_suffix(".strace")
    kinds = "trace=mkdir,mkdirat,write,fsync,fdatasync,link,linkat,rename,renameat,renameat2,unlink,unlinkat"
    command = [require("strace"), "-f", "-y", "-e", kinds, "-e", "status=successful", "-o", record]
    subprocess.run([*command, sys.executable, "-c", PUT, folder], check=True)
    calls: list[str] = []
    for line in record.read_text().splitlines():
        name = re.search(r"(\w+)\(", line)
        paths = [path for path in re.findall(r'[<"](/[^>"]*)[>"]', line) if path.startswith(str(folder.parent))]
        if name and paths:
            path = re.sub(r"/[0-9a-f]{32}$", "/NEW", paths[-1].removeprefix(str(folder)))
            calls.append(f"{name[1].removesuffix('at')} {path}")
    return calls


def test_everything_is_synced_in_the_order_that_a_power_cut_asks_for(
    require: Callable[[str], str], tmp_path: Path
) -> None:
    calls = traced_calls(require, tmp_path / "blobs")
    assert calls == [
        "mkdir ",
        f"fsync {tmp_path}",
        "mkdir /unfinished",
        "fsync ",
        "write /unfinished/NEW",
        "fdatasync /unfinished/NEW",
        "mkdir /packs",
        "fsync ",
        "mkdir /packs/1",
        "fsync /packs",
        "mkdir /packs/1/4f",
        "fsync /packs/1",
        f"rename /{KEY}",
        "fsync /packs/1/4f",
    ]


def test_absent_file_deleted_again_is_synced_too_and_not_found(tmp_path: Path) -> None:
    store = LocalBlobStore(tmp_path)
    store.put(KEY, b"abc")
    (tmp_path / KEY).unlink()
    store.delete(KEY)
    with pytest.raises(NotFound):
        store.size(KEY)

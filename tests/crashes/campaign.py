"""Kills work at each of its changes of the disk, cuts the power there, or fills the disk there; then looks for losses.

python -m tests.crashes.campaign FOLDER kill|cut|full [--seed N] [--share F] [--only SCENARIO] [--break BREAKAGE]

A point is a call of the kernel that changes something in the data folder, made by any thread, and by SQLite too. Points
are found by watching the work once. For each of them, or a share that the seed chooses, the work is done again on a
fresh copy of the folder, in a process of its own. Before the call happens:

kill   the process is killed. What it wrote is there, since the kernel has it.
cut    it is killed, and what was not synced is lost: bytes, and at every second point names too.
full   the disk, a small file system in memory, is filled. The work ends with the error that is due, and what is
       visible can be read; then there is space again, and the same process does the work.

Then another process starts as a server does and looks for losses (`checks`). A line of JSON for each scenario tells
what became of it. The campaign forks, and so it must not have threads itself.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import shutil
import subprocess
import time
import traceback
from collections.abc import Callable, Coroutine, Generator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar

import structlog

from icehouse.errors import OverQuota
from icehouse.services.start import DataFolder
from tests.crashes.breakages import BREAKAGES
from tests.crashes.checks import find_losses
from tests.crashes.disk_calls import DiskCall, Watcher, run_watched
from tests.crashes.power_cut import PowerCut
from tests.crashes.scenarios import SCENARIOS, Acknowledge, Scenario, no_one
from tests.crashes.world import World

SMALL_DISK: Final = "64m"
FAULT: Final = "fault"
"""The kind of what a process tells that went wrong in it; other kinds are acknowledgements."""

T = TypeVar("T")
Told = list[tuple[str, str]]


@dataclass(slots=True)
class Row:
    """What became of one scenario."""

    scenario: str
    how: str
    points: int = 0
    tried: int = 0
    losses: list[str] = field(default_factory=list[str])
    """One for each point that had some."""
    seconds: float = 0.0


class Points(Watcher):
    """Notes the points, and does something at one of them."""

    def __init__(self, folder: Path, fatal: int = 0, act: Callable[[], bool] = bool) -> None:
        """*act* is called at the point of the number *fatal*, and tells whether the process lives on."""
        self._folder = folder
        self._fatal = fatal
        self._act = act
        self.names: list[str] = []

    def before(self, call: DiskCall) -> bool:
        self.names.append(call.describe(self._folder))
        return self._act() if len(self.names) == self._fatal else True


class Both(Watcher):
    """Two watchers, of whom the first decides."""

    def __init__(self, points: Points, other: Watcher) -> None:
        self._points = points
        self._other = other

    def before(self, call: DiskCall) -> bool:
        return self._points.before(call) and self._other.before(call)

    def after(self, call: DiskCall) -> None:
        self._other.after(call)


class Campaign:
    """The points of all scenarios, in one way. The data folder is made anew for each, in `folder/disk`."""

    def __init__(self, folder: Path, how: str) -> None:
        self._template = folder / "template"
        self._disk = folder / "disk"
        self._data = self._disk / "data"
        self._how = how

    def run(self, name: str, *, seed: int, share: float) -> Row:
        """Try a share of the points of one scenario."""
        row = Row(name, self._how)
        began_at = time.monotonic()
        scenario = SCENARIOS[name]
        told = in_child(lambda _: scenario.make(DataFolder(self._template)))
        names, more = self._record(scenario)
        if told + [fault for fault in more if fault[0] == FAULT]:
            raise SystemExit(f"{name} fails by itself: {told + more}")
        row.points = len(names)
        chooser = random.Random(f"{seed} {name} {self._how}")
        for number in sorted(chooser.sample(range(1, row.points + 1), max(1, round(share * row.points)))):
            row.tried += 1
            faults = self._try(scenario, number)
            if faults:
                row.losses.append(f"{number}: {names[number - 1]}: {'; '.join(faults)}")
        shutil.rmtree(self._template)
        row.seconds = round(time.monotonic() - began_at, 1)
        return row

    def _record(self, scenario: Scenario) -> tuple[list[str], Told]:
        with self._fresh_copy():
            points = Points(self._data)
            told = in_child(lambda tell: scenario.run(DataFolder(self._data), tell), points, self._data)
            return points.names, told

    def _try(self, scenario: Scenario, number: int) -> list[str]:
        folder = DataFolder(self._data)
        with self._fresh_copy():
            if self._how == "full":
                disk = FullDisk(self._disk)
                points = Points(self._data, number, disk.fill)
                told = in_child(lambda tell: meet_full_disk(scenario, folder, tell, disk), points, self._data)
                disk.empty()
            elif self._how == "cut":
                cut = PowerCut(self._data, self._disk / "attic")
                watcher = Both(Points(self._data, number), cut)
                told = in_child(lambda tell: scenario.run(folder, tell), watcher, self._data)
                cut.cut(loses_names=number % 2 == 0)
            else:
                points = Points(self._data, number)
                told = in_child(lambda tell: scenario.run(folder, tell), points, self._data)
            told += in_child(lambda tell: find_losses(scenario, folder, told, tell))
        return [text for kind, text in told if kind == FAULT]

    @contextlib.contextmanager
    def _fresh_copy(self) -> Generator[None]:
        shutil.copytree(self._template, self._data)
        (self._disk / "attic").mkdir()
        try:
            yield
        finally:
            for place in list(self._disk.iterdir()):
                shutil.rmtree(place) if place.is_dir() else place.unlink()


def in_child(
    work: Callable[[Acknowledge], Coroutine[Any, Any, None]], watcher: Watcher | None = None, folder: Path = Path("/")
) -> Told:
    """Run *work* in a process of its own; give what it told, with a fault if it ended by an error."""
    reading, writing = os.pipe()

    def tell(kind: str, text: str) -> None:
        os.write(writing, f"{json.dumps((kind, text))}\n".encode())

    def run() -> None:
        try:
            asyncio.run(work(tell))
        except BaseException:  # noqa: BLE001  it is told
            tell(FAULT, traceback.format_exc())

    with open(reading) as told:  # noqa: PTH123  a Path opens no descriptor
        if watcher is not None:
            run_watched(run, folder, watcher)
        else:
            child = os.fork()
            if child == 0:
                run()
                os._exit(0)
            os.waitpid(child, 0)
        os.close(writing)
        return [(kind, text) for kind, text in map(json.loads, told)]


class FullDisk:
    """A file that takes all space of a file system, until it is emptied for good. Several processes may have it."""

    def __init__(self, folder: Path) -> None:
        self._filler = folder / "filler"
        self._was_emptied = folder / "was-emptied"

    def fill(self) -> bool:
        if self._was_emptied.exists():
            return True
        with self._filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            status = os.fstatvfs(file.fileno())
            os.posix_fallocate(file.fileno(), 0, status.f_bavail * status.f_frsize)
            while file.write(bytes(4096)):
                pass
        return True

    def empty(self) -> None:
        self._filler.unlink(missing_ok=True)
        self._was_emptied.touch()


async def meet_full_disk(scenario: Scenario, folder: DataFolder, tell: Acknowledge, disk: FullDisk) -> None:
    """Do the work, which finds the disk full somewhere; then make space and do it again, in the same process."""

    async def try_it(work: Coroutine[Any, Any, T]) -> T | None:
        try:
            return await work
        except OverQuota as exc:
            if "full" not in str(exc):
                tell(FAULT, f"the full disk is called {exc}")
        except Exception:  # noqa: BLE001  it is told
            tell(FAULT, f"the full disk gave another error: {traceback.format_exc()}")
        return None

    if scenario.work is None:
        await try_it(scenario.run(folder, no_one))
        disk.empty()
        await scenario.run(folder, tell)
        return
    async with contextlib.AsyncExitStack() as stack:
        world = await try_it(stack.enter_async_context(World.open(folder)))
        if world is None:
            disk.empty()
            world = await stack.enter_async_context(World.open(folder))
        await try_it(scenario.work(world, no_one))
        if not scenario.is_damaged:
            for fault in await world.find_unserved(scenario.before):
                tell(FAULT, f"while the disk was full: {fault}")
        disk.empty()
        await scenario.work(world, tell)


@contextlib.contextmanager
def small_disk(folder: Path) -> Generator[None]:
    """Mount a small file system there."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SMALL_DISK}", "none", folder], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", folder], check=True)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("how", choices=["kill", "cut", "full"])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--share", type=float, default=1.0)
    parser.add_argument("--only", choices=SCENARIOS, action="append")
    parser.add_argument("--break", choices=BREAKAGES, dest="breakage")
    options = parser.parse_args(arguments)
    if options.breakage is not None:
        BREAKAGES[options.breakage]()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger("critical"))
    campaign = Campaign(options.folder.absolute(), options.how)
    (options.folder / "disk").mkdir(parents=True)
    with small_disk(options.folder / "disk") if options.how == "full" else contextlib.nullcontext():
        for name in options.only or SCENARIOS:
            row = campaign.run(name, seed=options.seed, share=options.share)
            print(json.dumps(asdict(row)), flush=True)  # noqa: T201  its result


if __name__ == "__main__":
    main()

"""Whether anything was lost: looked for by a process that starts where another one was stopped."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from icehouse.api.publish import ChunksMissingRequest
from icehouse.db.engine import Database
from icehouse.db.tokens import find_token
from icehouse.rules.access import hash_token, parse_token
from icehouse.services.backup import Backups
from icehouse.services.start import DataFolder
from tests.crashes.scenarios import NEW_LOG, PIN, UPLOADS, Scenario, no_one, read_log
from tests.crashes.world import BASE, NARS, NOW, World, start_folder
from tests.services.publishing import cut, identity_of

Tell = Callable[[str, str], None]


async def find_losses(scenario: Scenario, folder: DataFolder, told: Sequence[tuple[str, str]], tell: Tell) -> None:
    """Tell each loss as a fault.

    Args:
        scenario: what was done.
        folder: where.
        told: what was acknowledged, by kind and name.
        tell: is told of a fault.
    """

    def add(when: str, faults: Sequence[str]) -> None:
        for fault in faults:
            tell("fault", f"{when}: {fault}")

    token = start_folder(folder).first_token
    add("after it", await _find_lost_tokens(folder, [*told, *([("token", str(token))] if token is not None else [])]))
    if scenario.has_database:
        async with World.open(folder) as world:
            add("after it", await _examine(scenario, world, told, is_done=False))
    await scenario.run(folder, no_one)
    if not scenario.after:
        return
    async with World.open(folder) as world:
        add("done again", await _examine(scenario, world, told, is_done=True))
        add("done again", [f"{file.name} is left over" for file in folder.path.glob("*.unfinished*")])
        add("days later", await world.find_strays())
        add("days later", await world.find_faults(scenario.after))


async def _examine(scenario: Scenario, world: World, told: Sequence[tuple[str, str]], *, is_done: bool) -> list[str]:
    expected = scenario.after if is_done else scenario.before
    faults = await (world.find_missing if scenario.is_damaged and not is_done else world.find_faults)(expected)
    if scenario.has_database and (await world.pins.resolve(world.cache, PIN)).base_name != BASE:
        faults.append("the pin resolves to something else")
    for kind, name in told:
        if kind in _KEPT and not await _KEPT[kind](world, name):
            faults.append(f"{kind} {name} was acknowledged and is lost")
    if scenario.check is not None:
        faults += await scenario.check(world, is_done)
    return faults


async def _find_lost_tokens(folder: DataFolder, told: Sequence[tuple[str, str]]) -> list[str]:
    database = Database.open(folder.database)
    try:
        tokens = [parse_token(name) for kind, name in told if kind == "token"]
        return [
            "the first token is not valid"
            for token in tokens
            if await database.read(lambda connection, token=token: find_token(connection, hash_token(token))) is None
        ]
    finally:
        database.close()


async def _is_visible(world: World, name: str) -> bool:
    return name in await world.visible()


async def _has_chunks(world: World, name: str) -> bool:
    identities = [identity_of(piece) for piece in cut(NARS[name])]
    answer = await world.store.packs.find_missing_chunks(world.cache, ChunksMissingRequest(b"".join(identities)))
    return len(answer.numbers) == len(identities)


async def _has_file(world: World, name: str) -> bool:
    return await world.has_file(UPLOADS[name])


async def _has_new_log(world: World, _name: str) -> bool:
    return await read_log(world) == NEW_LOG


async def _has_backup(world: World, name: str) -> bool:
    backups = await Backups(world.folder, world.store.blobs, lambda: NOW).list_backups()
    return name in {backup.name for backup in backups}


async def _has_pin(world: World, name: str) -> bool:
    return (await world.pins.resolve(world.cache, name)).base_name in await world.visible()


async def _has_nar(world: World, name: str) -> bool:
    return await world.has_nar(name)


_KEPT: dict[str, Callable[[World, str], Awaitable[bool]]] = {
    "path": _is_visible,
    "chunks": _has_chunks,
    "nar": _has_nar,
    "file": _has_file,
    "log": _has_new_log,
    "backup": _has_backup,
    "pin": _has_pin,
}

"""The state machine finds code that would lose data: each of these forgets one thing that the real code does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import Phase
from sqlalchemy import Connection, delete

from icehouse.db import collection as db_collection
from icehouse.db import nars as db_nars
from icehouse.db import paths as db_paths
from icehouse.db.schema import chunk, pack
from icehouse.errors import IcehouseError
from icehouse.rules import retention
from icehouse.rules.collection import PackPlan
from icehouse.services import collect, compaction, damage, nars, trash
from icehouse.storage.blobs import BlobInfo
from icehouse.storage.memory import MemoryBlobStore
from tests.services.lifecycle.machine import Lifecycle, run_histories

Mutate = Callable[[pytest.MonkeyPatch], None]


def forget_to_lift_a_condemnation(patch: pytest.MonkeyPatch) -> None:
    def do_nothing(*_: object) -> None:
        pass

    patch.setattr(nars, "lift_condemnation", do_nothing)


def skip_the_roots_of_pins(patch: pytest.MonkeyPatch) -> None:
    def find_none(*_: object, **__: object) -> list[int]:
        return []

    patch.setattr(collect.Collector, "_find_roots", find_none)


def delete_packs_without_the_condition(patch: pytest.MonkeyPatch) -> None:
    def delete_always(connection: Connection, pack_id: int, *, condemned_at: int) -> bool:
        del condemned_at
        connection.execute(delete(chunk).where(chunk.c.pack_id == pack_id))
        connection.execute(delete(pack).where(pack.c.id == pack_id))
        return True

    patch.setattr(collect, "delete_pack", delete_always)


def delete_condemned_packs_at_once(patch: pytest.MonkeyPatch) -> None:
    plan_packs = collect.plan_packs

    def plan(*args: Any, **named: Any) -> PackPlan:  # noqa: ANN401  as they are
        planned = plan_packs(*args, **named)
        return replace(planned, delete=(*planned.delete, *(replace(p, condemned_at=0) for p in planned.condemn)))

    patch.setattr(collect, "plan_packs", plan)
    delete_packs_without_the_condition(patch)


def ignore_what_was_pushed_since_the_plan(patch: pytest.MonkeyPatch) -> None:
    def find_none(*_: object) -> list[tuple[str, str]]:
        return []

    patch.setattr(collect, "newer_paths", find_none)


def count_only_a_path_s_own_use(patch: pytest.MonkeyPatch) -> None:
    def keep_own(_references: object, _order: object, own: object) -> object:
        return own

    patch.setattr(retention, "_inherit", keep_own)


def hide_no_referrers_of_damage(patch: pytest.MonkeyPatch) -> None:
    def find_none(*_: object, **__: object) -> dict[str, str]:
        return {}

    patch.setattr(damage, "plan_hiding", find_none)


def show_what_is_damaged(patch: pytest.MonkeyPatch) -> None:
    def find_none(*_: object) -> set[int]:
        return set()

    patch.setattr(db_paths, "find_unsound", find_none)


def delete_what_pins_keep(patch: pytest.MonkeyPatch) -> None:
    def load_none(*_: object) -> tuple[()]:
        return ()

    patch.setattr(trash, "load_pins", load_none)


def restore_without_the_closure(patch: pytest.MonkeyPatch) -> None:
    find_restorable = trash.find_restorable

    def find_only_those(*args: Any) -> dict[Any, Any]:  # noqa: ANN401  as they are
        return {key: row for key, row in find_restorable(*args).items() if key in args[2]}

    patch.setattr(trash, "find_restorable", find_only_those)


def take_young_objects_for_strays(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(collect, "GRACE_SECONDS", 0)


def remove_bytes_that_came_again(patch: pytest.MonkeyPatch) -> None:
    def remove(self: MemoryBlobStore, info: BlobInfo) -> bool:
        self.delete(info.key)
        return True

    patch.setattr(MemoryBlobStore, "delete_unchanged", remove)


def point_at_a_copy_before_it_is_durable(patch: pytest.MonkeyPatch) -> None:
    class Hasty(compaction.PackWriter):
        def finish(self, domain_id: int) -> bytes:
            name = super().finish(domain_id)
            self._blobs.delete(compaction.pack_key(domain_id, name))
            return name

    patch.setattr(compaction, "PackWriter", Hasty)


def purge_nars_that_wait_for_their_path(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(db_collection, "GRACE_SECONDS", 0)


def keep_an_old_recipe(patch: pytest.MonkeyPatch) -> None:
    """A NAR that is registered again, with other chunks, keeps the recipe of the first time."""
    put_nar = db_nars.put_nar

    def put(connection: Connection, **values: Any) -> int:  # noqa: ANN401  as they are
        present = db_nars.find_nars(connection, values["domain_id"], [values["nar_hash"]]).get(values["nar_hash"])
        return put_nar(connection, **values) if present is None else present.id

    patch.setattr(nars, "put_nar", put)


MUTATIONS: list[Mutate] = [
    forget_to_lift_a_condemnation,
    skip_the_roots_of_pins,
    delete_packs_without_the_condition,
    delete_condemned_packs_at_once,
    ignore_what_was_pushed_since_the_plan,
    count_only_a_path_s_own_use,
    hide_no_referrers_of_damage,
    show_what_is_damaged,
    delete_what_pins_keep,
    restore_without_the_closure,
    take_young_objects_for_strays,
    remove_bytes_that_came_again,
    point_at_a_copy_before_it_is_durable,
    purge_nars_that_wait_for_their_path,
    keep_an_old_recipe,
]


@pytest.mark.long
@pytest.mark.parametrize("mutate", MUTATIONS, ids=lambda mutate: mutate.__name__)
def test_machine_finds_code_that_loses_data(mutate: Mutate, monkeypatch: pytest.MonkeyPatch) -> None:
    mutate(monkeypatch)
    once = {"phases": [Phase.generate], "derandomize": True, "database": None, "report_multiple_bugs": False}
    with pytest.raises((AssertionError, IcehouseError)):
        run_histories(Lifecycle, runs=400, steps=50, **once)

"""The state machine finds code that would lose data: each of these forgets one thing that the real code does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import Phase
from sqlalchemy import Connection, delete

from icehouse.db.schema import chunk, pack
from icehouse.errors import IcehouseError
from icehouse.rules.collection import PackPlan
from icehouse.services import collect, nars, trash
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


def restore_without_the_closure(patch: pytest.MonkeyPatch) -> None:
    find_restorable = trash.find_restorable

    def find_only_those(*args: Any) -> dict[Any, Any]:  # noqa: ANN401  as they are
        return {key: row for key, row in find_restorable(*args).items() if key in args[2]}

    patch.setattr(trash, "find_restorable", find_only_those)


MUTATIONS: list[Mutate] = [
    forget_to_lift_a_condemnation,
    skip_the_roots_of_pins,
    delete_packs_without_the_condition,
    delete_condemned_packs_at_once,
    restore_without_the_closure,
]


@pytest.mark.long
@pytest.mark.parametrize("mutate", MUTATIONS, ids=lambda mutate: mutate.__name__)
def test_machine_finds_code_that_loses_data(mutate: Mutate, monkeypatch: pytest.MonkeyPatch) -> None:
    mutate(monkeypatch)
    once = {"phases": [Phase.generate], "derandomize": True, "database": None, "report_multiple_bugs": False}
    with pytest.raises((AssertionError, IcehouseError)):
        run_histories(Lifecycle, runs=400, steps=50, **once)

"""Each route, asked by each kind of caller about each kind of cache."""

from __future__ import annotations

import pytest

from tests.security.matrix import Matrix, caches_of, expected_statuses, render_table
from tests.security.routes import (
    CALLERS,
    METHODS,
    NO_RULE,
    RULES,
    Cache,
    expected_status,
    find_rows,
    may_know,
)
from tests.security.world import Seen, World
from tests.test_guide import ROOT

in_world = pytest.mark.asyncio(loop_scope="module")

ROWS = find_rows()
BEHIND = {"/{cache}/nar/{nar hash}.nar.zst": "/{cache}/nar/{file}"}
"""A route of which another takes what it leaves."""

COPY = ROOT / "docs" / "security-matrix.md"


@pytest.mark.parametrize("row", ROWS)
@in_world
async def test_each_caller_gets_what_the_design_grants_and_nothing_else(row: str, world: World, matrix: Matrix) -> None:
    assert row in RULES, NO_RULE.format(row=row)
    rule = RULES[row]
    surprises: list[str] = []
    for caller in CALLERS:
        seen: dict[Cache, Seen] = {}
        for cache in caches_of(row):
            expected = expected_status(rule, caller, cache)
            seen[cache] = await world.see(row.partition(" ")[0], rule, caller, cache)
            status = seen[cache].answer.status
            matrix.statuses[row, caller.name, cache] = status
            if status != expected:
                what = f"{row} as {caller.name} about {cache}: {status}, expected {expected}"
                surprises.append(f"{what}: {seen[cache].answer.body[:200]!r}")
            if status == rule.granted_status(cache):
                await world.undo(rule, cache)
        if rule.is_about_cache and not may_know(rule, caller):
            found = {cache: each.without(cache, f"token {world.victims[cache]},") for cache, each in seen.items()}
            if found[Cache.PRIVATE] != found[Cache.ABSENT]:
                told = f"{found[Cache.PRIVATE]}\n{found[Cache.ABSENT]}"
                surprises.append(f"{row} as {caller.name} tells a private cache from an absent one:\n{told}")
            matrix.compared += 1
    matrix.surprises += surprises
    assert not surprises, "\n".join(surprises)


@pytest.mark.parametrize("template", sorted({row.partition(" ")[2] for row in ROWS}))
@in_world
async def test_method_that_a_route_lacks_is_refused_to_everybody_alike(
    template: str, world: World, matrix: Matrix
) -> None:
    """OPTIONS of the API tells the methods, which the guide tells too."""
    of_route = {row.partition(" ")[0]: row for row in ROWS if row.partition(" ")[2] in {template, BEHIND.get(template)}}
    rule = next(RULES[row] for row in of_route.values() if row in RULES)
    for method in METHODS:
        if method in of_route:
            continue
        is_file = template == "/" or template.startswith("/{cache}")
        expected = {404, 405} if is_file and method in {"GET", "HEAD"} else {204 if method == "OPTIONS" else 405}
        expected = {405} if is_file and method == "OPTIONS" else expected
        answers: set[object] = set()
        for caller in CALLERS:
            for cache in Cache if "{cache}" in rule.path else (Cache.PUBLIC,):
                seen = await world.see(method, rule, caller, cache)
                assert seen.answer.status in expected, (method, caller, cache, seen)
                assert seen.statements == ()
                answers.add(repr(seen.without(cache, world.trust_number(cache))))
                matrix.refused_methods += 1
        assert len(answers) == 1


def test_each_entry_is_a_route_that_there_is() -> None:
    assert sorted(RULES) == sorted(ROWS)


def test_what_is_granted_has_a_status_of_its_own() -> None:
    refusals = {401, 403, 404, 405, 429}
    for row, rule in RULES.items():
        assert not {rule.granted_status(cache) for cache in Cache} & refusals, row


@in_world
async def test_the_description_of_the_api_is_the_same_for_all(world: World) -> None:
    document = await world.ask("GET", "/api/v1/openapi.json")
    assert document.status == 200
    for caller in CALLERS:
        credential = world.credentials[caller.name, Cache.PUBLIC]
        assert (await world.ask("GET", "/api/v1/openapi.json", credential=credential)).body == document.body


def test_the_copy_in_the_documentation_is_as_expected() -> None:
    wanted = render_table(expected_statuses())
    command = "pytest tests/security/test_matrix.py --security-matrix docs/security-matrix.md"
    assert COPY.read_text() == wanted, f"bring it up to date: {command}"

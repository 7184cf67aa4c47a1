"""Whatever users do and in whatever order, nothing that must stay is lost."""

import pytest

from tests.services.lifecycle.machine import Lifecycle, LocalLifecycle, run_histories


@pytest.mark.parametrize(("machine", "runs"), [(Lifecycle, 15), (LocalLifecycle, 5)])
def test_nothing_is_lost_in_a_few_histories(machine: type[Lifecycle], runs: int) -> None:
    run_histories(machine, runs=runs, steps=50)


@pytest.mark.long
@pytest.mark.parametrize(("machine", "runs"), [(Lifecycle, 800), (LocalLifecycle, 200)])
def test_nothing_is_lost_in_many_histories(machine: type[Lifecycle], runs: int) -> None:
    machine.counts.clear()
    run_histories(machine, runs=runs, steps=60)
    # Else the machine stands still somewhere.
    assert not [what for what, count in machine.counts.items() if not count], machine.counts

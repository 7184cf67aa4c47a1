"""No crash, no broken promise, bounded memory: for what was found before, for a small sample, and in long campaigns."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz.campaign import run_inputs, run_seconds
from tests.fuzz.corpus import first_inputs
from tests.fuzz.targets import TARGETS, run_target

ROOT = Path(__file__).parents[2]
SEED = 1
SAMPLE = 250
LONG_SECONDS = 20
GUIDED_SECONDS = 30

every_target = pytest.mark.parametrize("target", sorted(TARGETS))


@every_target
def test_what_is_kept_in_the_corpus_breaks_nothing(target: str) -> None:
    for data in first_inputs(target):
        run_target(target, data)


@every_target
def test_sample_of_mutations_breaks_nothing(target: str) -> None:
    run_inputs(target, SEED, SAMPLE)


@pytest.mark.long
@every_target
@pytest.mark.parametrize("seed", [2, 3])
def test_mutations_of_a_campaign_break_nothing(target: str, seed: int) -> None:
    print(f"{target}: seed {seed}, {run_seconds(target, seed * 1_000_000, LONG_SECONDS)} inputs")  # noqa: T201


@pytest.mark.long
@pytest.mark.skipif(platform.machine() != "x86_64", reason="atheris has a wheel for x86_64 only")
@every_target
def test_campaign_led_by_coverage_finds_nothing(target: str) -> None:
    """Memory is bounded too: libFuzzer ends a campaign that grows."""
    command = [sys.executable, "-m", "uv", "run", "--no-sync", "--locked", "--no-build", "--with", "atheris==3.0.0"]
    program = ["python", "-m", "tests.fuzz.guided", target, str(GUIDED_SECONDS), str(SEED)]
    done = subprocess.run([*command, *program], cwd=ROOT, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]

"""The page of transcripts shows every command, and nothing that is of one machine or secret."""

import re
from pathlib import Path

import pytest

from tests.test_guide import commands

PAGE = (Path(__file__).parent.parent / "docs" / "transcripts.md").read_text()
TYPED = [line.removeprefix("$ ") for line in PAGE.splitlines() if line.startswith("$ ")]


@pytest.mark.parametrize("words", [words for words, _ in commands()])
def test_every_command_was_recorded(words: str) -> None:
    assert any(re.search(rf"(^|\) ){words}( (?!--help)|$)", line) for line in TYPED), (
        f"`make transcripts` types no {words}"
    )


@pytest.mark.parametrize(
    "private", [r"\bice_", r"\btmp/", r"[A-Za-z0-9+/]{43}=", "icehouse-transcripts", "/root/", "Traceback"]
)
def test_nothing_secret_and_nothing_of_one_machine_is_on_the_page(private: str) -> None:
    assert re.findall(private, PAGE) == []


def test_the_configuration_is_the_same_after_remove_as_before_use() -> None:
    sums = re.findall(r"^\$ sha256sum .*\n([^`]*)", PAGE, re.MULTILINE)
    assert len(sums) == 2
    assert sums[0] == sums[1]

"""The project's own files agree with each other."""

import ast
import re
import tomllib
from pathlib import Path
from typing import NotRequired, TypedDict, cast

import pytest

from icehouse import __version__
from tests.conftest import find_program

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "src" / "icehouse"
MIGRATIONS = PACKAGE / "db" / "migrations" / "versions"


class Wheel(TypedDict):
    url: str


class Locked(TypedDict):
    name: str
    source: dict[str, str]
    wheels: NotRequired[list[Wheel]]
    marker: NotRequired[str]


class Project(TypedDict):
    dependencies: list[str]


def runtime_dependencies() -> list[str]:
    project = cast("Project", tomllib.loads((ROOT / "pyproject.toml").read_text())["project"])
    return [re.split(r"[^A-Za-z0-9-]", requirement)[0] for requirement in project["dependencies"]]


def locked_packages() -> list[Locked]:
    lock = tomllib.loads((ROOT / "uv.lock").read_text())
    return [package for package in cast("list[Locked]", lock["package"]) if "registry" in package["source"]]


def dependencies_with_a_reason() -> list[str]:
    """The first column of README's table, each name with a sentence beside it."""
    return re.findall(r"^\| `([a-z0-9-]+)` \| [A-Z][^|]+\. \|$", (ROOT / "README.md").read_text(), re.MULTILINE)


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def test_package_tells_the_version_of_the_project() -> None:
    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"] == __version__


def test_readme_gives_each_runtime_dependency_one_reason() -> None:
    assert sorted(dependencies_with_a_reason()) == sorted(runtime_dependencies())


@pytest.mark.parametrize("module", modules(), ids=lambda path: str(cast("Path", path).relative_to(PACKAGE)))
def test_module_opens_with_a_docstring(module: Path) -> None:
    assert ast.get_docstring(ast.parse(module.read_text()))


def test_every_folder_of_the_package_can_be_imported() -> None:
    # Alembic loads migrations by their file names, which are no names of modules.
    folders = {module.parent for module in modules()} - {module.parent for module in MIGRATIONS.rglob("*.py")}
    assert [str(folder) for folder in sorted(folders) if not (folder / "__init__.py").exists()] == []


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_every_locked_package_installs_without_a_compiler(machine: str) -> None:
    fits = re.compile(rf"-(py(2\.py)?3-none|cp3\d+-abi3|cp311-cp311)-(any|manylinux\S*_{machine}\S*)\.whl$")
    without = [
        package["name"]
        for package in locked_packages()
        if not any(fits.search(wheel["url"]) for wheel in package.get("wheels", []))
    ]
    assert without == []


def test_everything_locked_comes_from_the_public_index() -> None:
    assert {package["source"]["registry"] for package in locked_packages()} == {"https://pypi.org/simple"}


def test_every_target_of_make_has_a_line_of_help() -> None:
    targets = re.findall(r"^\.PHONY: (.+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    explained = re.findall(r"^([.\w-]+):.*## .+$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert targets == explained


@pytest.mark.parametrize(("ci", "outcome"), [("true", pytest.fail.Exception), ("", pytest.skip.Exception)])
def test_missing_program_fails_the_test_where_ci_is_set_and_skips_it_elsewhere(
    monkeypatch: pytest.MonkeyPatch, ci: str, outcome: type[BaseException]
) -> None:
    monkeypatch.setenv("CI", ci)
    with pytest.raises(outcome, match="no-such-program is not in PATH"):
        find_program("no-such-program")


def test_program_that_is_there_is_found_with_its_path() -> None:
    assert Path(find_program("git")).is_file()

import pytest

from icehouse.errors import InvalidFormat
from icehouse.nix.derivations import output_path_name, parse_derivation, parse_output_name

DERIVATION = f"{'a' * 32}-hello-2.12.drv"


def test_derivation_is_a_store_path_that_ends_in_drv() -> None:
    assert parse_derivation(DERIVATION).base_name == DERIVATION


@pytest.mark.parametrize(
    "text",
    [
        "",
        ".drv",
        f"{'a' * 32}-.drv/",
        f"{'a' * 32}-hello",
        f"{'e' * 32}-hello.drv",
        f"{DERIVATION}\n",
        f"../{DERIVATION}",
    ],
)
def test_what_is_no_derivation_is_refused(text: str) -> None:
    with pytest.raises(InvalidFormat):
        parse_derivation(text)


@pytest.mark.parametrize(("output", "name"), [("out", "hello-2.12"), ("dev", "hello-2.12-dev")])
def test_outputs_other_than_out_are_named_in_their_paths(output: str, name: str) -> None:
    assert output_path_name(parse_derivation(DERIVATION), output) == name


@pytest.mark.parametrize("text", ["", "..", "a/b", "a!b", "ö", "x" * 300])
def test_what_is_no_output_is_refused(text: str) -> None:
    with pytest.raises(InvalidFormat, match="output"):
        parse_output_name(text)

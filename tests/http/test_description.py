"""The API's description is valid and whole, and a real server answers each of its examples as it says."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol, cast
from urllib.parse import quote, urlencode

import pytest
from jsonschema import Draft202012Validator
from openapi_spec_validator import OpenAPIV31SpecValidator, validate

from icehouse.http.app import FILE_ROUTES, ROUTES
from icehouse.http.description import TAGS, ApiDescription
from icehouse.http.hot import HOT_ROUTES
from icehouse.http.operations import (
    BUILD_ID,
    GREETING_LETTERS,
    GREETING_SIZE,
    IDENTITY,
    NAR_LETTERS,
    NAR_SIZE,
    OPERATIONS,
    RECIPE,
)
from icehouse.rules.recipes import make_recipe, render_recipe
from tests.http.running import Answer, RunningServer, run_server
from tests.security.contents import BUILD_ID as BUILD_ID_IN_NAR
from tests.security.contents import NAR
from tests.services.publishing import Upload, cut, identity_of, nar_hash_of, nar_of

Json = dict[str, Any]

ANSWERS: Final = Path(__file__).parents[2] / "src/icehouse/http/answers.json"
GREETING_NAR: Final = nar_of(b"Hello from the cache\n")
FILES: Final = {"hello.pack": Upload.of(cut(NAR)).render(), "greeting.nar": GREETING_NAR}
MAX_RECORDED: Final = 2_000

SCHEMA_OF: Final = ApiDescription(ROUTES, version="1", public_url="https://cache.example.org")
DOCUMENT: Final = SCHEMA_OF.document
DESCRIBED: Final[dict[str, tuple[str, str, Json]]] = {
    operation["operationId"]: (method, path, operation)
    for path, item in DOCUMENT["paths"].items()
    for method, operation in item.items()
}
ADD: Final = "see the head of src/icehouse/http/operations.py"


class Validator(Protocol):
    """What is used of the library's, whose types are not told."""

    def validate(self, instance: object) -> None: ...


@dataclass(frozen=True, slots=True)
class Told:
    """The story, told to a server."""

    answers: dict[str, Answer]


def ask(server: RunningServer, name: str) -> Answer:
    """Send the example of an operation as the description has it."""
    method, path, described = DESCRIBED[name]
    values = {each["name"]: each["example"] for each in described["parameters"] if each["in"] == "path"}
    url = re.sub(r"{([a-z_]+)}", lambda match: quote(str(values[match[1]]), safe="/!:"), path)
    query = {
        each["name"]: str(each["example"]).lower()
        for each in described["parameters"]
        if each["in"] == "query" and "example" in each
    }
    body: object = None
    headers: dict[str, str] = {}
    if "requestBody" in described:
        ((media_type, media),) = described["requestBody"]["content"].items()
        headers["Content-Type"] = media_type
        file = OPERATIONS[name].file
        body = FILES[file] if file is not None else media["example"]
        body = body.encode() if isinstance(body, str) else body
    token = "" if described["security"] == [] else None
    return server.ask(method.upper(), f"{url}?{urlencode(query)}" if query else url, body, token=token, headers=headers)


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> Generator[Told]:
    options = ("--public-url", "https://cache.example.org")
    with run_server(tmp_path_factory.mktemp("description") / "data", *options) as server:
        server.create_cache("release", is_public=False)
        answers = {name: ask(server, name) for name in OPERATIONS if name in DESCRIBED}
        yield Told(answers)
    if pytestconfig.getoption("--record-answers"):
        recorded = {name: record(answer) for name, answer in sorted(answers.items())}
        kept = {name: answer for name, answer in recorded.items() if answer is not None and name != "show_document"}
        ANSWERS.write_text(json.dumps(kept, indent=1, ensure_ascii=False) + "\n")


def record(answer: Answer) -> Any:  # noqa: ANN401  JSON
    """An answer as an example, without secrets; None: it is bytes, long, or nothing."""
    if not answer.body or len(answer.body) > 4 * MAX_RECORDED:
        return None
    if "json" in answer.headers["content-type"] and "ndjson" not in answer.headers["content-type"]:
        return json.loads(re.sub(rb"ice_[0-9A-Za-z]{49}", b"ice_" + b"0" * 49, answer.body))
    if answer.headers["content-type"].startswith("text/") or "ndjson" in answer.headers["content-type"]:
        return answer.body.decode() if len(answer.body) <= MAX_RECORDED else None
    return None


def check(value: object, schema: Json) -> None:
    """Hold JSON against a schema of the document."""
    validator = cast("Validator", Draft202012Validator({**schema, "components": DOCUMENT["components"]}))
    validator.validate(value)


def test_document_is_valid_openapi() -> None:
    validate(json.loads(SCHEMA_OF.json), cls=OpenAPIV31SpecValidator)


def shape(method: str, path: str) -> tuple[str, str]:
    return method.lower(), re.sub(r"{[^}]*}", "{}", path)


def test_document_has_each_route_and_no_other() -> None:
    served = [
        shape(method, path)
        for route in ROUTES
        for path in route.paths
        for method in route.http_methods - {"HEAD", "OPTIONS"}
    ]
    served += [shape("get", path) for path in HOT_ROUTES]
    served += [shape("get", route.template) for route in FILE_ROUTES if route.get is not None]
    served += [shape("put", route.template) for route in FILE_ROUTES if route.put is not None]
    assert sorted(shape(method, path) for method, path, _ in DESCRIBED.values()) == sorted(served), ADD


def test_each_operation_has_an_example_and_each_example_an_operation() -> None:
    assert sorted(OPERATIONS) == sorted(DESCRIBED), ADD


@pytest.mark.parametrize("name", DESCRIBED)
def test_operation_says_all_that_a_reader_needs(name: str) -> None:
    _, path, operation = DESCRIBED[name]
    assert operation["summary"]
    assert operation["description"].startswith(operation["summary"])
    assert set(operation["tags"]) <= set(TAGS)
    assert len(operation["tags"]) == 1
    assert {each["name"] for each in operation["parameters"] if each["in"] == "path"} == set(
        re.findall(r"{(\w+)}", path)
    )
    for parameter in operation["parameters"]:
        assert parameter["description"], parameter
        assert parameter["schema"].keys() & {"type", "enum", "$ref", "anyOf"}, parameter
        if "example" in parameter:
            check(parameter["example"], parameter["schema"])
    for told in (operation.get("requestBody", {}), *operation["responses"].values()):
        for media in told.get("content", {}).values():
            if "example" in media:
                check(media["example"], media["schema"])


def test_bodies_say_what_their_fields_mean() -> None:
    assert DOCUMENT["components"]["schemas"]["CacheCreate"]["properties"]["trash_seconds"] == {
        "type": "integer",
        "default": 604_800,
        "description": "How long hidden paths can come back.",
    }


def schemas_sent() -> dict[str, Json]:
    """The schemas of the bodies of requests, with all that they name."""
    schemas = DOCUMENT["components"]["schemas"]
    found: dict[str, Json] = {}
    left = [operation.get("requestBody", {}) for _, _, operation in DESCRIBED.values()]
    while left:
        for name in re.findall(r'"#/components/schemas/(\w+)"', json.dumps(left.pop())):
            if name not in found:
                found[name] = schemas[name]
                left.append(schemas[name])
    return found


@pytest.mark.parametrize(("name", "schema"), schemas_sent().items(), ids=schemas_sent())
def test_each_field_that_clients_send_has_a_meaning(name: str, schema: Json) -> None:
    untold = [field for field, told in schema["properties"].items() if not told.get("description")]
    assert untold == [], f"write a string behind the fields of {name} in src/icehouse/api"


def test_texts_mark_code_as_markdown_does() -> None:
    assert "``" not in SCHEMA_OF.json.decode()


def test_words_of_the_examples_are_about_the_files_that_are_sent() -> None:
    (chunk,) = cut(NAR)
    recipe = render_recipe(make_recipe([1], chunk.hashes))
    assert (len(NAR), nar_hash_of(NAR)) == (NAR_SIZE, f"sha256:{NAR_LETTERS}")
    assert (len(GREETING_NAR), nar_hash_of(GREETING_NAR)) == (GREETING_SIZE, f"sha256:{GREETING_LETTERS}")
    assert BUILD_ID == BUILD_ID_IN_NAR
    assert (base64.b64encode(identity_of(chunk)).decode(), base64.b64encode(recipe).decode()) == (IDENTITY, RECIPE)


@pytest.mark.parametrize("name", OPERATIONS)
def test_example_is_answered_as_it_says(told: Told, name: str) -> None:
    answer, operation = told.answers[name], DESCRIBED[name][2]
    assert answer.status == OPERATIONS[name].status, answer.body
    content = operation["responses"][str(answer.status)].get("content", {})
    if not content:
        assert answer.body == b""
        return
    media_type = answer.headers["content-type"].partition(";")[0]
    media = content.get(media_type, content.get("*/*"))
    assert media is not None, (media_type, sorted(content))
    if media_type.endswith("ndjson"):
        for line in filter(None, answer.body.split(b"\n")):
            check(json.loads(line), media["schema"]["contentSchema"])
    elif media_type.endswith("json"):
        check(answer.json(), media["schema"])


def test_recorded_answers_are_of_operations_that_there_are() -> None:
    recorded = json.loads(ANSWERS.read_text())
    assert set(recorded) <= set(OPERATIONS)
    with_json = {
        name
        for name, (_, _, operation) in DESCRIBED.items()
        if "application/json" in operation["responses"].get(str(OPERATIONS[name].status), {}).get("content", {})
    }
    assert with_json - {"show_document"} <= set(recorded), f"record them; {ADD}"

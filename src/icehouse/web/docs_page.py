"""The page that shows the API to people: every operation, from the same document that machines read."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode

from litestar import Response, get
from litestar.di import NamedDependency

from icehouse.web.pages import Page
from icehouse.web.visits import Visit

Json = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Field:
    """A parameter, or a field of a body."""

    name: str
    kind: str
    text: str
    is_required: bool


@dataclass(frozen=True, slots=True)
class OperationView:
    """One operation."""

    name: str
    method: str
    path: str
    summary: str
    text: str
    """What there is to say behind the summary."""
    credentials: str
    parameters: Sequence[Field]
    fields: Sequence[Field]
    command: str
    answers: Sequence[tuple[str, str]]
    """Statuses and what they mean."""
    example: str
    """An answer; empty: none that can be shown."""


@dataclass(frozen=True, slots=True)
class Part:
    """The operations of a tag."""

    name: str
    text: str
    operations: Sequence[OperationView]


@dataclass(frozen=True, slots=True)
class DocsPage(Page):
    """All that the template sees."""

    template = "docs.html"

    text: str
    parts: Sequence[Part]

    @property
    def title(self) -> str:
        """What it describes."""
        return "HTTP API"


@get("/docs")
async def show_docs(visit: NamedDependency[Visit]) -> Response[Any]:
    """What the API is. The same for everybody: it tells of no cache."""
    document = visit.parts.describe()
    parts = [
        Part(tag["name"], tag["description"], _operations(document, tag["name"], visit.parts.public_url))
        for tag in document["tags"]
    ]
    return visit.show(DocsPage(document["info"]["description"], [part for part in parts if part.operations]))


def _operations(document: Json, tag: str, server: str) -> list[OperationView]:
    schemas: Json = document["components"]["schemas"]
    return [
        _view(method, path, described, schemas, server)
        for path, item in document["paths"].items()
        for method, described in item.items()
        if tag in described["tags"]
    ]


def _view(method: str, path: str, described: Json, schemas: Json, server: str) -> OperationView:
    answers: Json = described["responses"]
    content: Json = next(iter(answers.values())).get("content", {})
    example = next((media["example"] for media in content.values() if "example" in media), None)
    bodies: Json = described.get("requestBody", {}).get("content", {})
    schemas_sent: list[Json] = [media["schema"] for media in bodies.values()]
    credentials = "a token" if described["security"] else "none"
    if {} in described["security"]:
        credentials = "none for what is public, else a token"
    return OperationView(
        described["operationId"],
        method.upper(),
        path,
        described["summary"],
        described["description"].removeprefix(described["summary"]).removeprefix(".").strip(),
        credentials,
        [
            Field(each["name"], _kind(each["schema"]), each["description"], each.get("required", False))
            for each in described["parameters"]
        ],
        [field for schema in schemas_sent for field in _fields(schema, schemas)],
        make_command(method, path, described, server),
        [(status, answer["description"]) for status, answer in answers.items()],
        example if isinstance(example, str) else "" if example is None else json.dumps(example, indent=2),
    )


def _fields(schema: Json, schemas: Json, place: str = "") -> Iterator[Field]:
    """The fields of a body, each followed by those of what stands in it: ``paths``, ``paths[].store_path``."""
    for choice in schema.get("anyOf", ()):
        yield from _fields(choice, schemas, place)
    if schema.get("type") == "array":
        yield from _fields(schema.get("items", {}), schemas, f"{place}[]")
    named: Json = schemas.get(schema.get("$ref", "").rpartition("/")[2], {})
    needed: Sequence[str] = named.get("required", ())
    for name, field in named.get("properties", {}).items():
        way = f"{place}.{name}".removeprefix(".")
        yield Field(way, _kind(field), field.get("description", ""), name in needed)
        yield from _fields(field, schemas, way)


def _kind(schema: Json) -> str:
    """What a schema takes, in few words."""
    if "anyOf" in schema:
        return " or ".join(_kind(each) for each in schema["anyOf"])
    if "enum" in schema:
        return ", ".join(map(str, schema["enum"]))
    if "$ref" in schema:
        return "object"
    if schema.get("type") == "array":
        return f"list of {_kind(schema.get('items', {}))}"
    text = str(schema.get("type", "anything"))
    least, most = schema.get("minimum"), schema.get("maximum")
    if least is not None and most is not None:
        text += f", {least} to {most}"
    if "default" in schema:
        text += f"; else {json.dumps(schema['default'])}"
    return text


def make_command(method: str, path: str, described: Json, server: str) -> str:
    """The example as a command for a shell in which `TOKEN` is set."""
    values = {each["name"]: each for each in described["parameters"] if "example" in each}
    way = re.sub(
        r"{([a-z_]+)}",
        lambda name: quote(str(values[name[1]]["example"] if name[1] in values else name[0]), "/!:{}"),
        path,
    )
    query = {name: str(each["example"]).lower() for name, each in values.items() if each["in"] == "query"}
    url = f"{server}{way}?{urlencode(query)}" if query else f"{server}{way}"
    lines = [f"curl {shlex.quote(url)}" if method == "get" else f"curl -X {method.upper()} {shlex.quote(url)}"]
    if described["security"]:
        lines.append('--oauth2-bearer "$TOKEN"')
    for media_type, media in described.get("requestBody", {}).get("content", {}).items():
        lines.append(f"-H {shlex.quote(f'Content-Type: {media_type}')}")
        example = media.get("example")
        if example is None:
            lines.append("--data-binary @FILE")
        else:
            lines.append(f"--data-binary {shlex.quote(example if isinstance(example, str) else json.dumps(example))}")
    return " \\\n  ".join(lines)

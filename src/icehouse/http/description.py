"""The description of the API in OpenAPI 3.1, made of the handlers, their types, and what `operations` adds to them."""

from __future__ import annotations

import ast
import inspect
import re
import sys
from collections.abc import Mapping, Sequence
from functools import cache, cached_property
from importlib.resources import files
from itertools import pairwise
from types import NoneType
from typing import Any, Final, get_args, get_origin, get_type_hints

import msgspec
from litestar import MediaType, Response
from litestar.handlers import HTTPRouteHandler
from litestar.params import KwargDefinition
from litestar.response import Stream

from icehouse.api.collections import CollectionEvent
from icehouse.api.server import Problem
from icehouse.http.errors import STATUSES
from icehouse.http.file_operations import FILE_OPERATIONS, TAG, FileOperation
from icehouse.http.operations import OPERATIONS, Operation
from icehouse.rules.pins import NAME_PATTERN

Json = dict[str, Any]

PATH: Final = "/api/v1/openapi.json"

_SCHEMAS: Final = "#/components/schemas/{name}"
_JSON: Final = "application/json"
_PROBLEM: Final = "application/problem+json"
_LINES: Final = "application/x-ndjson"
_TEXT: Final = "text/plain"
_OCTETS: Final = "application/octet-stream"
_LETTER: Final = "[0-9a-df-np-sv-z]"
_FIRST_ERROR: Final = 400
_NUMBER: Final = {"type": "integer", "minimum": 0, "maximum": 2**53}
_STRING: Final = {"type": "string", "minLength": 1}

PARAMETERS: Final[Mapping[str, tuple[str, Json]]] = {
    "cache_name": (
        "The name of the cache.",
        {"type": "string", "pattern": "^[a-z0-9]([a-z0-9-]{0,48}[a-z0-9])?$", "maxLength": 50},
    ),
    "hash_part": (
        "The first 32 letters of the path's base name, in Nix32.",
        {"type": "string", "pattern": f"^{_LETTER}{{32}}$"},
    ),
    "other": ("The same of the other path.", {"type": "string", "pattern": f"^{_LETTER}{{32}}$"}),
    "nar_hash": (
        "The SHA-256 of the NAR, not compressed: 52 letters of Nix32.",
        {"type": "string", "pattern": f"^{_LETTER}{{52}}$"},
    ),
    "pin_name": ("The name of the pin.", {"type": "string", "pattern": f"^{NAME_PATTERN}$", "maxLength": 100}),
    "token_id": ("The number of the token.", _NUMBER),
    "person_id": ("The number of the person.", _NUMBER),
    "rule_id": ("The number of the trust rule.", _NUMBER),
    "collection_id": ("The number of the collection.", _NUMBER),
    "revocation_id": ("The number of the revocation.", _NUMBER),
    "file": (
        "The SHA-256 of the file in Nix32, `.nar`, and the end that tells its compression.",
        {**_STRING, "maxLength": 80},
    ),
    "derivation": ("The base name of the derivation.", _STRING),
    "id": ("`sha256:`, the hash of the derivation in hexadecimal, `!` and the output's name.", _STRING),
    "output": ("The name of the output.", _STRING),
    "build_id": ("40 hexadecimal digits.", {"type": "string", "pattern": "^[0-9a-f]{40}$"}),
    "path": ("The way inside the store path.", _STRING),
}
"""Meaning and bounds of each parameter that stands in a path."""

TAGS: Final[Mapping[str, str]] = {
    "server": "The server itself.",
    "caches": "Caches, and the paths in them.",
    "publishing": "Native publishing, in the order in which a push uses it.",
    TAG: "What Nix and other clients read from a substituter, and what stock Nix uploads. Errors are a line of text.",
    "pins": "Names for store paths, which keep them.",
    "collections": "Letting go of what nothing keeps.",
    "trash": "What was hidden, and can come back.",
    "tokens": "Credentials.",
    "people": "Those who logged in by a provider.",
    "trust": "Rules by which jobs of a CI get tokens without secrets.",
    "keys": "The signing keys of a cache.",
    "audit": "What was changed, and by whom.",
    "revocations": "Holding back what somebody published.",
}
"""In the order of the page."""

_INTRODUCTION: Final = (
    "Caches of Nix's store paths, and the JSON API that manages them. Times are seconds since the epoch, hashes are "
    "`sha256:` and 52 letters of Nix32, and byte strings in JSON are base64. Every answer has `X-Request-Id`. A "
    "private cache that the credentials may not see is answered like one that is not there."
)


class ApiDescription:
    """What the server says of its own API. Made when it is first asked for."""

    def __init__(self, routes: Sequence[HTTPRouteHandler], *, version: str, public_url: str) -> None:
        self._routes = routes
        self._version = version
        self._public_url = public_url

    @cached_property
    def document(self) -> Json:
        """The whole document. Nobody changes it."""
        answers: Json = msgspec.json.decode(files("icehouse.http").joinpath("answers.json").read_bytes())
        types = {
            kind for route in self._routes for kind in (_sent_type(route), _answer_type(route)) if _is_described(kind)
        }
        _, schemas = msgspec.json.schema_components(
            sorted({*types, CollectionEvent, Problem}, key=repr), schema_hook=_any_json, ref_template=_SCHEMAS
        )
        paths: dict[str, Json] = {}
        for route in self._routes:
            for path in route.paths:
                for method in route.http_methods - {"HEAD", "OPTIONS"}:
                    item = paths.setdefault(re.sub(r":[a-z]+}", "}", path), {})
                    item[method.lower()] = _describe_route(route, path, answers, schemas)
        for file in FILE_OPERATIONS:
            paths.setdefault(file.path, {})[file.method] = _describe_file(file, answers)
        return {
            "openapi": "3.1.0",
            "info": {"title": "Icehouse", "version": self._version, "description": _INTRODUCTION},
            "servers": [{"url": self._public_url}],
            "tags": [{"name": name, "description": text} for name, text in TAGS.items()],
            "paths": paths,
            "components": {
                "schemas": _with_fields(schemas),
                "securitySchemes": {
                    "token": {"type": "http", "scheme": "bearer", "description": "A token of this server."},
                    "netrc": {
                        "type": "http",
                        "scheme": "basic",
                        "description": "The token is the password, and the user name is anything: so Nix sends it.",
                    },
                },
            },
        }

    @cached_property
    def json(self) -> bytes:
        """The document as it is sent."""
        return msgspec.json.encode(self.document)


def _is_described(kind: object) -> bool:
    return not any(kind is other for other in (None, NoneType, bytes, str, Stream))


@cache
def _hints(route: HTTPRouteHandler) -> Mapping[str, Any]:
    return get_type_hints(route.fn, include_extras=True)


def _sent_type(route: HTTPRouteHandler) -> Any:  # noqa: ANN401  a type, or None
    return _hints(route).get("data")


def _answer_type(route: HTTPRouteHandler) -> Any:  # noqa: ANN401  a type
    kind = _hints(route)["return"]
    return get_args(kind)[0] if get_origin(kind) is Response else kind


def _schema(kind: object, schemas: dict[str, Any]) -> Json:
    """The schema of a type; what it names is added to *schemas*."""
    (schema,), named = msgspec.json.schema_components((kind,), schema_hook=_any_json, ref_template=_SCHEMAS)
    schemas |= named
    return schema


def _any_json(kind: type) -> Json:
    if kind is object:
        return {"description": "Anything in JSON."}
    raise NotImplementedError(kind)


def _describe_route(route: HTTPRouteHandler, path: str, answers: Json, schemas: dict[str, Any]) -> Json:
    name = route.fn.__name__
    operation = OPERATIONS.get(name, Operation())  # without one it is described too; the tests ask for it
    text = re.sub(r"(?<!\n)\n(?!\n)", " ", inspect.getdoc(route.fn) or "")
    summary = text.split("\n")[0].split(". ")[0].removesuffix(".")
    described = {
        "operationId": name,
        "tags": sorted(route.tags or ()),
        "summary": summary,
        "description": text,
        "security": _security(operation),
        "parameters": _path_parameters(path, operation) + _query_parameters(route, operation, schemas),
        "responses": _answers_of_route(route, operation, answers.get(name), schemas),
    }
    body = _sent_type(route)
    if body is not None:
        described["requestBody"] = {
            "required": True,
            "content": {_JSON: {"schema": _schema(body, schemas), "example": operation.body}},
        }
    elif operation.sends is not None:
        described["requestBody"] = _sent_bytes(operation)
    return described


def _security(operation: Operation) -> list[Json]:
    match operation.access:
        case "nobody":
            return []
        case "reader":
            return [{}, {"token": []}, {"netrc": []}]
        case "token":
            return [{"token": []}, {"netrc": []}]


def _path_parameters(path: str, operation: Operation) -> list[Json]:
    found: list[Json] = []
    for name in re.findall(r"{([a-z_]+)(?::[a-z]+)?}", path):
        text, schema = PARAMETERS.get(name, ("", _STRING))
        parameter = {"name": name, "in": "path", "required": True, "description": text, "schema": schema}
        found.append(parameter | ({"example": operation.path[name]} if name in operation.path else {}))
    return found


def _query_parameters(route: HTTPRouteHandler, operation: Operation, schemas: dict[str, Any]) -> list[Json]:
    found: list[Json] = []
    defaults = inspect.signature(route.fn).parameters
    for name, hint in _hints(route).items():
        definition = next((each for each in get_args(hint)[1:] if isinstance(each, KwargDefinition)), None)
        if definition is None or f"{{{name}:" in "".join(route.paths):
            continue
        kind = get_args(hint)[0]
        # None stands for a parameter that is not there, which can be said in no other way.
        schema = _without_null(_schema(kind, schemas))
        bounds = {"minimum": definition.ge, "maximum": definition.le, "maxLength": definition.max_length}
        default = defaults[name].default
        schema |= {bound: value for bound, value in bounds.items() if value is not None}
        is_required = default is inspect.Parameter.empty
        schema |= {} if is_required or default in {None, ""} else {"default": default}
        sent = getattr(definition, "query", None) or getattr(definition, "name", None) or name
        parameter = {"name": sent, "in": "query", "description": definition.description, "schema": schema}
        parameter |= {"required": True} if is_required else {}
        if sent in operation.query:
            parameter["example"] = operation.query[sent]
        found.append(parameter)
    return found


def _without_null(schema: Json) -> Json:
    choices = [choice for choice in schema.get("anyOf", ()) if choice != {"type": "null"}]
    return dict(choices[0]) if len(choices) == 1 else dict(schema)


def _answers_of_route(route: HTTPRouteHandler, operation: Operation, example: Any, schemas: dict[str, Any]) -> Json:  # noqa: ANN401  JSON
    kind = _answer_type(route)
    granted = route.status_code if operation.status >= _FIRST_ERROR else operation.status
    content: Json = {}
    if kind is Stream:
        lines = {"contentMediaType": _JSON, "contentSchema": _schema(CollectionEvent, schemas)}
        content = {_LINES: {"schema": {"type": "string", **lines}}}
    elif kind in {str, bytes}:
        is_json = route.media_type == MediaType.JSON
        content = {_JSON: {"schema": {"type": "object"}}} if is_json else {_TEXT: {"schema": {"type": "string"}}}
    elif kind is not NoneType:
        content = {_JSON: {"schema": _schema(kind, schemas)}}
    if example is not None and operation.status < _FIRST_ERROR:
        for media in content.values():
            media["example"] = example
    answers = {str(granted): _answer(granted, content)}
    for status in operation.also:
        # The example is of the first one.
        bare = {media_type: {"schema": media["schema"]} for media_type, media in content.items()}
        answers[str(status)] = _answer(status, bare)
    has_body = _sent_type(route) is not None
    is_refused = operation.access != "nobody"
    has_place = bool(operation.path)
    refusals = {
        *operation.refusals,
        *((400,) if is_refused else ()),
        *((401, 403, 429) if is_refused else (429,)),
        *((404,) if has_place else ()),
        *((413,) if has_body or operation.sends else ()),
        500,
        503,
    }
    for status in sorted(refusals):
        problem = {_PROBLEM: {"schema": {"$ref": _SCHEMAS.format(name="Problem")}, "example": _problem(status)}}
        if status == operation.status and example is not None:
            problem[_PROBLEM]["example"] = example
        known = answers.setdefault(str(status), {**_answer(status, {}), "content": {}})
        known["content"] |= problem
        known |= _headers(status)
    return dict(sorted(answers.items()))


def _problem(status: int) -> Json:
    title = next(title for known, title in STATUSES.values() if known == status)
    return {
        "title": title,
        "status": status,
        "detail": "What is wrong, where, and what was expected.",
        "request_id": "21f32a1ae03942d8",
    }


def _answer(status: int, content: Json) -> Json:
    told = {
        200: "Done.",
        201: "Made.",
        202: "Not all of it is done yet: ask again.",
        204: "Done; there is no body.",
        206: "The bytes that were asked for.",
        304: "What the client has is current.",
        416: "The range begins behind the end.",
    }
    text = told.get(status) or f"{next(title for known, title in STATUSES.values() if known == status)}."
    return {"description": text, "content": content} if content else {"description": text}


def _headers(status: int) -> Json:
    told = {
        401: ("WWW-Authenticate", "`Basic`: so that Nix and curl send the token.", {"type": "string"}),
        429: ("Retry-After", "Seconds until it may be tried again.", {"type": "integer"}),
        503: ("Retry-After", "Seconds until it may be tried again.", {"type": "integer"}),
    }
    if status not in told:
        return {}
    name, text, schema = told[status]
    return {"headers": {name: {"description": text, "schema": schema}}}


def _sent_bytes(operation: Operation) -> Json:
    media: Json = {"schema": {} if operation.file else {"type": "string"}}
    if operation.body is not None:
        media["example"] = operation.body
    return {"required": True, "content": {operation.sends or _JSON: media}}


def _describe_file(file: FileOperation, answers: Json) -> Json:
    operation = OPERATIONS[file.name]
    is_text = file.media_type.startswith("text/")
    media: Json = {"schema": {"type": "string"} if is_text else {}}
    if answers.get(file.name) is not None:
        media["example"] = answers[file.name]
    described: Json = {
        "operationId": file.name,
        "tags": [TAG],
        "summary": file.summary,
        "description": f"{file.summary}. {file.more}".rstrip() + (" HEAD too." if file.method == "get" else ""),
        "security": _security(operation),
        "parameters": _path_parameters(file.path, operation),
    }
    responses: Json = {"200": _answer(200, {file.media_type: media})}
    if file.has_ranges:
        responses |= {"206": _answer(206, {file.media_type: {"schema": {}}}), "304": _answer(304, {})}
        responses["416"] = _answer(416, {})
    if file.method == "put":
        described["requestBody"] = (
            _sent_bytes(operation)
            if operation.sends
            else {"required": True, "content": {_JSON: {"schema": {}, "example": operation.body}}}
        )
    common = (401, 404, 429, 503) if file.method == "get" else (400, 401, 403, 404, 409, 413, 429)
    for status in sorted({*common, *operation.refusals}):
        text = {_TEXT: {"schema": {"type": "string"}}}
        responses[str(status)] = _answer(status, text) | _headers(status)
    described["responses"] = dict(sorted(responses.items()))
    return described


def _with_fields(schemas: dict[str, Any]) -> dict[str, Any]:
    """The schemas with what the sources say of each field, in the string behind it."""
    texts = {
        kind.__name__: _field_texts(kind)
        for module in list(sys.modules.values())
        if module.__name__.startswith("icehouse.api.")
        for kind in vars(module).values()
        if inspect.isclass(kind) and issubclass(kind, msgspec.Struct)
    }
    for name, schema in schemas.items():
        if "description" in schema:
            schema["description"] = _as_markdown(schema["description"])
        for field, described in schema.get("properties", {}).items():
            if field in texts.get(name, {}):
                described["description"] = texts[name][field]
    return dict(sorted(schemas.items()))


def _as_markdown(text: str) -> str:
    return text.replace("``", "`")


def _field_texts(kind: type) -> dict[str, str]:
    found: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        if base.__module__.startswith("icehouse.api."):
            body = ast.parse(inspect.getsource(base)).body[0]
            members = body.body if isinstance(body, ast.ClassDef) else []
            for field, after in pairwise(members):
                match field, after:
                    case (
                        ast.AnnAssign(target=ast.Name(id=name)),
                        ast.Expr(value=ast.Constant(value=str() as text)),
                    ):
                        found[name] = _as_markdown(re.sub(r"\s+", " ", text).strip())
                    case _:
                        pass
    return found

"""What the description of the API has of each operation that its handler does not say: the one place of examples.

Each route of the API, and each file of a cache, has an entry in `OPERATIONS` under its operation's name: that of the
handler, or the one in `file_operations`. Together the examples are a story that is told from top to bottom to a new
server with one more cache, ``release``: what one of them names was made by one before it. `tests/http/
test_description.py` tells it to a real server, and holds each answer against the description.

Whoever adds a route adds an `Operation` here, where it fits into the story, and then records the answer of a real
server by ``pytest tests/http/test_description.py --record-answers``, which writes ``answers.json`` beside this module.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

Access = Literal["nobody", "reader", "token"]
"""Whose credentials are looked at: nobody's; those of a caller who needs them if the cache is private; everybody's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """An operation, and one request of it."""

    path: Mapping[str, str | int] = field(default_factory=dict[str, "str | int"])
    """The parameters in the path."""
    query: Mapping[str, str | int] = field(default_factory=dict[str, "str | int"])
    body: Any = None
    """As JSON, or a string as it is where `sends` says so."""
    file: str | None = None
    """In place of a body: the file that has it."""
    status: int = 200
    """Of the answer to the example."""
    access: Access = "token"
    refusals: tuple[int, ...] = ()
    """Statuses of errors beside those that every operation of its kind may have."""
    also: tuple[int, ...] = ()
    """Further statuses whose answer has the same body as the first one's."""
    sends: str | None = None
    """The media type of a body that is no JSON."""


HASH_PART: Final = "wadmyilr414n7bimysbny876i2vlm5r3"
HELLO: Final = f"{HASH_PART}-hello-2.12.1"
NAR_LETTERS: Final = "138hcfk2hfr2r96wbp7vi834n6c920926bif933zwbmjrzw7zfmg"
NAR_SIZE: Final = 1408
"""Of the NAR of `HELLO`, whose SHA-256 is the letters, in one chunk."""
IDENTITY: Final = "2VuAO4XBdF9wRtjXlRmbbORqHHUomIVeydl/VQx8FrU="
RECIPE: Final = "AQEBAQAA"
"""Of that NAR: the chunk with the number 1."""
GREETING: Final = "0c9v1rl4r7kw3pyzj5p3pqllza2k9hm6-greeting"
GREETING_LETTERS: Final = "0qs7nbiaksihc9lj7rya00jw7argpk8fh6vfpmydng5zxjs14qiy"
GREETING_SIZE: Final = 136
BUILD_ID: Final = "abcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcd"
DERIVATION: Final = "5bkcqwq3qb6dxshcj44hr1jrf8k7qhxb-hello-2.12.1.drv"
REALISATION: Final = f"sha256:{'7' * 64}!out"

_TEAM: Final = {"cache_name": "team"}
_PATH: Final = {**_TEAM, "hash_part": HASH_PART}
_UPLOADED: Final = {**_TEAM, "hash_part": GREETING[:32]}
_PIN: Final = {**_TEAM, "pin_name": "hello"}
_DEBUG: Final = {**_TEAM, "build_id": BUILD_ID}
_TRACE: Final = {**_TEAM, "derivation": DERIVATION, "output": "out"}
_TEXT: Final = "text/plain"
_OCTETS: Final = "application/octet-stream"

OPERATIONS: Final[Mapping[str, Operation]] = {
    # A server, and a cache
    "tell_health": Operation(access="nobody"),
    "tell_readiness": Operation(access="nobody"),
    "show_document": Operation(access="nobody"),
    "show_server": Operation(access="nobody"),
    "create_cache": Operation(
        body={"name": "team", "is_public": False, "upstreams": []}, status=201, refusals=(404, 409)
    ),
    "list_caches": Operation(access="reader"),
    "show_cache": Operation(path=_TEAM, access="reader"),
    "measure_cache": Operation(path=_TEAM, access="reader"),
    "show_traffic": Operation(path=_TEAM, query={"range": "month"}),
    "configure_cache": Operation(path=_TEAM, body={"keep_unused_seconds": 7_776_000, "priority": 35}, refusals=(409,)),
    # A push
    "find_missing": Operation(path=_TEAM, body={"hash_parts": [HASH_PART]}, access="reader", refusals=(413,)),
    "find_missing_chunks": Operation(path=_TEAM, body={"identities": IDENTITY}),
    "receive_pack": Operation(path=_TEAM, file="hello.pack", sends=_OCTETS, refusals=(413, 415, 507)),
    "register_nars": Operation(
        path=_TEAM,
        body={"nars": [{"nar_hash": f"sha256:{NAR_LETTERS}", "nar_size": NAR_SIZE, "recipe": RECIPE}]},
        also=(202,),
        refusals=(507,),
    ),
    "show_nar": Operation(path={**_TEAM, "nar_hash": NAR_LETTERS}, also=(202,)),
    "publish_paths": Operation(
        path=_TEAM,
        body={
            "paths": [
                {
                    "store_path": HELLO,
                    "nar_hash": f"sha256:{NAR_LETTERS}",
                    "nar_size": NAR_SIZE,
                    "references": [HELLO],
                }
            ]
        },
        also=(409,),
        refusals=(507,),
    ),
    "promote_path": Operation(
        path={"cache_name": "release"},
        body={"source": "team", "hash_part": HASH_PART},
        also=(202, 409),
        refusals=(507,),
    ),
    # Paths
    "list_paths": Operation(path=_TEAM),
    "show_one_path": Operation(path=_PATH, access="reader"),
    "list_referrers": Operation(path=_PATH, access="reader"),
    "search_paths": Operation(path=_TEAM, query={"text": "hello"}, access="reader"),
    "explain_one_path": Operation(path=_PATH, access="reader"),
    "show_closure": Operation(path=_PATH, access="reader", refusals=(413,)),
    "find_chain": Operation(path={**_PATH, "other": HASH_PART}, access="reader", refusals=(413,)),
    "show_difference": Operation(
        path=_TEAM, query={"from": HASH_PART, "to": HASH_PART}, access="reader", refusals=(413,)
    ),
    # Pins
    "put_pin": Operation(
        path=_PIN,
        body={"store_path": HELLO, "artifacts": ["bin"], "keep_revisions": 3},
        status=201,
        also=(200,),
        refusals=(409,),
    ),
    "list_pins": Operation(path=_TEAM, access="reader"),
    "show_pin": Operation(path=_PIN, access="reader"),
    # The binary cache
    "get_cache_info": Operation(path=_TEAM, access="reader"),
    "put_cache_info": Operation(path=_TEAM, body="StoreDir: /nix/store\n", sends=_TEXT),
    "get_narinfo": Operation(path=_PATH, access="reader"),
    "get_nar": Operation(path={**_TEAM, "nar_hash": NAR_LETTERS}, access="reader"),
    "put_nar_file": Operation(
        path={**_TEAM, "file": f"{GREETING_LETTERS}.nar"}, file="greeting.nar", sends=_OCTETS, refusals=(413, 415, 503)
    ),
    "put_narinfo": Operation(
        path=_UPLOADED,
        body=(
            f"StorePath: /nix/store/{GREETING}\n"
            f"URL: nar/{GREETING_LETTERS}.nar\n"
            "Compression: none\n"
            f"NarHash: sha256:{GREETING_LETTERS}\n"
            f"NarSize: {GREETING_SIZE}\n"
            "References: \n"
        ),
        sends=_TEXT,
        refusals=(413, 415),
    ),
    "get_nar_file": Operation(path={**_TEAM, "file": f"{GREETING_LETTERS}.nar"}, access="reader"),
    "put_log": Operation(path={**_TEAM, "derivation": DERIVATION}, body="building\n", sends=_TEXT, refusals=(413, 415)),
    "get_log": Operation(path={**_TEAM, "derivation": DERIVATION}, access="reader"),
    "put_realisation": Operation(
        path={**_TEAM, "id": REALISATION}, body={"id": REALISATION, "outPath": HELLO, "signatures": []}
    ),
    "get_realisation": Operation(path={**_TEAM, "id": REALISATION}, access="reader"),
    "put_build_trace": Operation(path=_TRACE, body={"outPath": HELLO, "signatures": []}),
    "get_build_trace": Operation(path=_TRACE, access="reader"),
    "put_listing": Operation(
        path=_PATH, body={"version": 1, "root": {"type": "directory", "entries": {}}}, refusals=(413,)
    ),
    "get_listing": Operation(path=_PATH, access="reader"),
    "get_content": Operation(path={**_PATH, "path": "bin/run"}, access="reader"),
    "put_debug_info": Operation(
        path=_DEBUG,
        body={"archive": f"../nar/{NAR_LETTERS}.nar.zst", "member": f"lib/debug/.build-id/ab/{BUILD_ID[2:]}.debug"},
        refusals=(413,),
    ),
    "get_debug_info": Operation(path=_DEBUG, access="reader"),
    "get_debug_file": Operation(path=_DEBUG, access="reader"),
    "get_pin": Operation(path=_PIN, access="reader"),
    "get_artifact": Operation(path={**_PIN, "path": "bin/run"}, access="reader"),
    # Lifecycle
    "plan_deletion": Operation(path=_UPLOADED),
    "delete_path": Operation(path=_UPLOADED, query={"with_referrers": True}, refusals=(409,)),
    "list_trash": Operation(path=_TEAM),
    "restore_path": Operation(path=_UPLOADED, refusals=(409,)),
    "restore_many": Operation(path=_TEAM, body={"hash_parts": [GREETING[:32]]}),
    "collect_cache": Operation(path=_TEAM, body={"is_dry_run": False}, refusals=(409,)),
    "collect_all": Operation(body={"is_dry_run": True}, refusals=(409,)),
    "show_cache_collection": Operation(path={**_TEAM, "collection_id": 1}),
    "preview_retention": Operation(path=_TEAM, query={"budget_bytes": 1_000_000_000}),
    "show_verification": Operation(path=_TEAM),
    "list_cache_collections": Operation(path=_TEAM),
    "list_collections": Operation(),
    # Who may do what
    "create_token": Operation(
        body={
            "description": "builder",
            "permissions": ["push"],
            "cache_pattern": "team",
            "expires_in_seconds": 2_592_000,
        },
        status=201,
    ),
    "list_tokens": Operation(),
    "search_tokens": Operation(query={"state": "valid", "limit": 10}),
    "show_own_token": Operation(),
    "revoke_token": Operation(path={"token_id": 2}, status=204, refusals=(404,)),
    "list_people": Operation(query={"search": "ada"}),
    "revoke_person": Operation(path={"person_id": 1}, body={"keep_tokens": False}, status=404, refusals=(404,)),
    "add_trust": Operation(
        path=_TEAM,
        body={
            "issuer": "https://token.actions.githubusercontent.com",
            "claims": {"repository": ["org/app"], "ref": ["refs/heads/main"]},
            "permissions": ["push"],
        },
        status=201,
        refusals=(409,),
    ),
    "list_trust": Operation(path=_TEAM),
    # An identity lasts for minutes, so that of an example is always refused.
    "exchange_identity": Operation(
        body={"cache": "team", "id_token": "the.identity.of-the-job"}, status=401, access="reader"
    ),
    "remove_trust": Operation(path={**_TEAM, "rule_id": 1}, status=204),
    "list_keys": Operation(path=_TEAM),
    "add_key": Operation(path=_TEAM, body={}, status=201, refusals=(409,)),
    "activate_key": Operation(path=_TEAM, body={"name": "team.cache.example.org-2"}, refusals=(409,)),
    "show_signing_progress": Operation(path=_TEAM),
    "retire_key": Operation(path=_TEAM, body={"name": "team.cache.example.org-1", "strip": False}, refusals=(409,)),
    "list_changes": Operation(query={"cache": "team", "action": "pin.", "limit": 10}),
    "revoke_publications": Operation(body={"by": {"repository": "org/app"}, "since": 1_700_000_000}, refusals=(404,)),
    "list_revocations": Operation(),
    "undo_revocation": Operation(path={"revocation_id": 1}, refusals=(404, 409)),
    "show_metrics": Operation(),
    "show_activity": Operation(),
    # The end
    "delete_pin": Operation(path=_PIN, status=204),
    "delete_cache": Operation(path=_TEAM, status=204, refusals=(409,)),
}

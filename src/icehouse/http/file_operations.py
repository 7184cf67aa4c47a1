"""What the description of the API has of the files of a cache, which no handler with types answers for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from icehouse.http.operations import Access

TAG: Final = "binary cache"

_TEXT: Final = "text/plain"
_JSON: Final = "application/json"
_NAR: Final = "application/x-nix-nar"
_STORED: Final = "200 and nothing more: it is taken."


@dataclass(frozen=True, slots=True)
class FileOperation:
    """A method of a kind of file. GET answers HEAD too."""

    name: str
    method: Literal["get", "put"]
    path: str
    summary: str
    media_type: str
    """Of the answer."""
    more: str = ""
    """What else there is to say."""
    has_ranges: bool = False
    """Whether GET knows ETag, If-None-Match and single ranges."""

    @property
    def access(self) -> Access:
        """Who may: those who may pull, or those who may push."""
        return "reader" if self.method == "get" else "token"


FILE_OPERATIONS: Final = (
    FileOperation(
        "get_cache_info",
        "get",
        "/{cache_name}/nix-cache-info",
        "What Nix asks a cache first: store directory, WantMassQuery and Priority",
        "text/x-nix-cache-info",
    ),
    FileOperation(
        "put_cache_info",
        "put",
        "/{cache_name}/nix-cache-info",
        "Compare a nix-cache-info with the cache's",
        _TEXT,
        "It changes nothing; 409 if it names another store directory.",
    ),
    FileOperation(
        "get_narinfo",
        "get",
        "/{cache_name}/{hash_part}.narinfo",
        "The metadata of a path, signed",
        "text/x-nix-narinfo",
    ),
    FileOperation(
        "put_narinfo",
        "put",
        "/{cache_name}/{hash_part}.narinfo",
        "Publish a path whose NAR was uploaded",
        _TEXT,
        "The answer names the references for which the path waits, if there are any. At most 2 MiB.",
    ),
    FileOperation(
        "get_nar",
        "get",
        "/{cache_name}/nar/{nar_hash}.nar.zst",
        "The NAR with this hash, in zstd",
        _NAR,
        has_ranges=True,
    ),
    FileOperation(
        "get_nar_file",
        "get",
        "/{cache_name}/nar/{file}",
        "A NAR under the name, and in the compression, of its upload",
        _NAR,
        "HEAD finds it as soon as it is uploaded, GET when a path has it.",
        has_ranges=True,
    ),
    FileOperation(
        "put_nar_file",
        "put",
        "/{cache_name}/nar/{file}",
        "Upload a NAR as stock Nix does",
        _TEXT,
        "The body is a stream, which is unpacked, checked and stored while it arrives. With `Expect: 100-continue`, "
        "who must wait is told so (503) before anything of the body is asked for.",
    ),
    FileOperation(
        "get_log",
        "get",
        "/{cache_name}/log/{derivation}",
        "The build log of a derivation",
        _TEXT,
        "In zstd for who accepts that encoding.",
        has_ranges=True,
    ),
    FileOperation("put_log", "put", "/{cache_name}/log/{derivation}", "Keep a build log", _TEXT, _STORED),
    FileOperation(
        "get_realisation",
        "get",
        "/{cache_name}/realisations/{id}.doi",
        "The output path of a content-addressed derivation, for Nix up to 2.34",
        _JSON,
    ),
    FileOperation(
        "put_realisation",
        "put",
        "/{cache_name}/realisations/{id}.doi",
        "Keep the output path of a content-addressed derivation, from Nix up to 2.34",
        _TEXT,
        "At most 64 KiB.",
    ),
    FileOperation(
        "get_build_trace",
        "get",
        "/{cache_name}/build-trace-v2/{derivation}/{output}.doi",
        "The output path of a content-addressed derivation, for Nix 2.35 and later",
        _JSON,
    ),
    FileOperation(
        "put_build_trace",
        "put",
        "/{cache_name}/build-trace-v2/{derivation}/{output}.doi",
        "Keep the output path of a content-addressed derivation, from Nix 2.35 and later",
        _TEXT,
        "At most 64 KiB.",
    ),
    FileOperation(
        "get_listing",
        "get",
        "/{cache_name}/{hash_part}.ls",
        "What is in a path",
        _JSON,
        "Files, symlinks and folders as a tree, made from the NAR.",
        has_ranges=True,
    ),
    FileOperation(
        "put_listing",
        "put",
        "/{cache_name}/{hash_part}.ls",
        "Have a listing checked",
        _TEXT,
        "It is not kept: ours is made from the NAR. At most 64 MiB.",
    ),
    FileOperation(
        "get_content",
        "get",
        "/{cache_name}/serve/{hash_part}/{path}",
        "A file out of a path, or a folder as a page of links",
        "*/*",
        "The path may have slashes. Symlinks are followed. The media type goes by the name and the first bytes.",
        has_ranges=True,
    ),
    FileOperation(
        "get_debug_info",
        "get",
        "/{cache_name}/debuginfo/{build_id}",
        "The NAR that has the debug file of a build id, and where in it",
        _JSON,
        "`.debug` may follow the build id.",
        has_ranges=True,
    ),
    FileOperation(
        "put_debug_info",
        "put",
        "/{cache_name}/debuginfo/{build_id}",
        "Have the place of a debug file checked",
        _TEXT,
        "It is not kept: ours is made from the NAR. At most 4 KiB.",
    ),
    FileOperation(
        "get_debug_file",
        "get",
        "/{cache_name}/buildid/{build_id}/debuginfo",
        "The debug file of a build id, for debuggers",
        "application/octet-stream",
        has_ranges=True,
    ),
    FileOperation(
        "get_pin",
        "get",
        "/{cache_name}/pin/{pin_name}",
        "The whole store path that a pin stands for, as a line of text",
        _TEXT,
    ),
    FileOperation(
        "get_artifact",
        "get",
        "/{cache_name}/pin/{pin_name}/{path}",
        "An artifact of a pin, or what is below one",
        "*/*",
        "The path may have slashes.",
        has_ranges=True,
    ),
)
"""Those of the hot routes, and those of `FILE_ROUTES`."""

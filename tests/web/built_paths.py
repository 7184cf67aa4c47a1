"""A cache with paths as somebody builds them, for pages about paths."""

from __future__ import annotations

from typing import Final

import msgspec

from icehouse.api.publish import PathBody
from icehouse.nix.nar_write import Directory, Node, Regular, Symlink, write_nar
from tests.http.running import RunningServer
from tests.rules.samples import noise
from tests.services.publishing import path_body

GLIBC: Final = f"{'g' * 32}-glibc-2.39-52"
OPENSSL: Final = f"{'s' * 32}-openssl-3.0.13"
PYTHON: Final = f"{'p' * 32}-python3-3.11.9"
NUMPY: Final = f"{'n' * 32}-python3.11-numpy-1.26.4"
APP: Final = f"{'a' * 32}-report-tool-2.1"
OLD: Final = f"{'d' * 32}-report-tool-1.9"
DERIVER: Final = f"{'v' * 32}-report-tool-2.1.drv"

HOSTILE: Final = b"<script>document.title = 'owned'</script>"


def _library(name: str, size: int) -> Directory:
    return Directory({b"lib": Directory({f"lib{name}.so".encode(): Regular(noise(name, size), executable=True)})})


TREES: Final[dict[str, tuple[Node, list[str]]]] = {
    GLIBC: (_library("c", 300_000), [GLIBC]),
    OPENSSL: (_library("ssl", 120_000), [GLIBC]),
    PYTHON: (_library("python", 500_000), [GLIBC, OPENSSL, PYTHON]),
    NUMPY: (_library("numpy", 220_000), [GLIBC, PYTHON]),
    OLD: (_library("report", 4_000), [NUMPY]),
    APP: (
        Directory(
            {
                b"bin": Directory({b"report": Regular(b"#!/bin/sh\nexec python3 -m report\n", executable=True)}),
                b"current": Symlink(b"share/doc"),
                b"elsewhere": Symlink(b"/etc/passwd"),
                b"python": Symlink(f"/nix/store/{PYTHON}".encode()),
                b"share": Directory(
                    {
                        b"doc": Directory(
                            {
                                b"README": Regular("Gr\u00fc\u00dfe\n".encode() * 40),
                                b"page.html": Regular(HOSTILE),
                                b"picture.svg": Regular(b"<svg xmlns='http://www.w3.org/2000/svg'/>"),
                                b"table.bin": Regular(noise("table", 30_000)),
                                b"<b>&\xff": Regular(b"x"),
                            }
                        )
                    }
                ),
            }
        ),
        [NUMPY, OPENSSL],
    ),
}


def fill(server: RunningServer, cache: str) -> None:
    """Publish them. `OLD` is in the trash then, and `APP` pinned."""
    nars = {base_name: b"".join(write_nar(tree)) for base_name, (tree, _) in TREES.items()}
    bodies = [server.upload(cache, nar) for nar in nars.values()]
    answer = server.ask("POST", f"/api/v1/caches/{cache}/nars", msgspec.json.encode({"nars": bodies}))
    assert [nar["state"] for nar in answer.json()["results"]] == ["stored"] * len(nars), answer.body
    for base_name, (_, references) in TREES.items():
        body = path_body(base_name, nars[base_name], sorted(references))
        body = msgspec.structs.replace(body, deriver=DERIVER if base_name == APP else None)
        _publish(server, cache, body)
    log = b"building\n" * 30 + b"<i>done</i>\n"
    assert server.ask("PUT", f"/{cache}/log/{DERIVER}", log).status < 300
    assert server.ask("DELETE", f"/api/v1/caches/{cache}/paths/{OLD[:32]}").status == 200
    assert server.ask("PUT", f"/api/v1/caches/{cache}/pins/release", {"store_path": APP}).status == 201


def _publish(server: RunningServer, cache: str, body: PathBody) -> None:
    answer = server.ask("POST", f"/api/v1/caches/{cache}/paths", msgspec.json.encode({"paths": [body]}))
    assert answer.status == 200, answer.body

"""The page that shows a folder in a store path."""

from __future__ import annotations

import hashlib
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from itertools import islice
from typing import Final, assert_never
from urllib.parse import quote

from icehouse.http.asgi import Header
from icehouse.nix.excerpts import show_name
from icehouse.nix.listing import ListedDirectory, ListedNode, ListedRegular, ListedSymlink

MAX_ROWS: Final = 10_000
"""Entries of one page; a browser takes seconds for more."""

_STYLE: Final = """
:root { color-scheme: light dark; font: 1rem/1.5 system-ui, sans-serif; }
body { margin: 1rem auto; max-width: 60rem; padding: 0 1rem; }
h1 { font-size: 1.25rem; overflow-wrap: anywhere; }
table { border-collapse: collapse; width: 100%; }
th, td { border-bottom: 1px solid color-mix(in srgb, currentColor 25%, transparent); padding: 0.25rem 0.5rem; }
th { font-weight: inherit; text-align: start; overflow-wrap: anywhere; }
thead th { font-weight: bold; }
th:last-child, td:last-child { font-variant-numeric: tabular-nums; text-align: end; }
"""
_STYLE_HASH: Final = b64encode(hashlib.sha256(_STYLE.encode()).digest())

PAGE_HEADERS: Final[tuple[Header, ...]] = (
    (b"content-type", b"text/html; charset=utf-8"),
    (b"x-content-type-options", b"nosniff"),
    (
        b"content-security-policy",
        b"default-src 'none'; style-src 'sha256-%b'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        % _STYLE_HASH,
    ),
)
"""What goes with each page: nothing in it runs or loads anything but its own style."""


@dataclass(frozen=True, slots=True)
class FolderPage:
    """All that the page shows."""

    cache_name: str
    store_path: str
    hash_part: str
    names: Sequence[bytes]
    """The way to the folder, from the store path on, as it was asked for."""
    node: ListedDirectory


def render_folder_page(page: FolderPage) -> bytes:
    """The page, in UTF-8. Its links are absolute paths, so that they hold with a slash at the end of the URL or not."""
    title = "/".join((page.store_path, *map(show_name, page.names)))
    rows = [_render_row(page, name, entry) for name, entry in islice(page.node.entries.items(), MAX_ROWS)]
    up = f'<p><a href="{_link(page, page.names[:-1])}">Up to the folder above</a></p>\n' if page.names else ""
    count = len(page.node.entries)
    listing = f"/{page.cache_name}/{page.hash_part}.ls"
    rest = f'<p>{count - MAX_ROWS:,} more are in <a href="{listing}">the listing</a>.</p>\n' if count > MAX_ROWS else ""
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)} in {page.cache_name}</title>
<style>{_STYLE}</style>
</head>
<body>
<main>
<h1><bdi>{escape(title)}</bdi></h1>
{up}<table>
<caption>{count:,} {"entry" if count == 1 else "entries"}</caption>
<thead><tr><th scope="col">Name</th><th scope="col">Kind</th><th scope="col">Size in bytes</th></tr></thead>
<tbody>
{"".join(rows)}</tbody>
</table>
{rest}</main>
</body>
</html>
""".encode()


def _render_row(page: FolderPage, name: bytes, entry: ListedNode) -> str:
    size = ""
    match entry:
        case ListedRegular():
            kind = "executable file" if entry.executable else "file"
            size = f"{entry.size:,}"
        case ListedSymlink(target):
            kind = f"symlink to <bdi>{escape(show_name(target))}</bdi>"
        case ListedDirectory():
            kind = "folder"
        case _:
            assert_never(entry)
    shown = f'<a href="{_link(page, (*page.names, name))}"><bdi>{escape(show_name(name))}</bdi></a>'
    return f'<tr><th scope="row">{shown}</th><td>{kind}</td><td>{size}</td></tr>\n'


def _link(page: FolderPage, names: Sequence[bytes]) -> str:
    return "/".join((f"/{page.cache_name}/serve/{page.hash_part}", *(quote(name, safe="") for name in names)))

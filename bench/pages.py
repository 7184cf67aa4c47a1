"""How long the server takes for each page, with a million paths in three caches."""

import http.client
import random
import re
import time
import urllib.parse
from collections.abc import Mapping
from http import HTTPStatus
from statistics import median

from bench.lifecycle import PATHS
from bench.million import Million, make_million
from bench.processes import peak_memory_bytes, reset_peak_memory
from bench.server import CACHE, IcehouseServer
from bench.table import Row, at_most, measured

_ASKED = 20
_GOAL_SECONDS = 0.05
_UI = f"/ui/caches/{CACHE}"

_PAGES: Mapping[str, str] = {
    "caches": "/",
    "a cache": f"/{CACHE}",
    "paths, the newest": f"{_UI}/paths",
    "paths, a search for a name": f"{_UI}/paths?q=package-4711",
    "paths, a search for a word that nothing has": f"{_UI}/paths?q=zzzzzz",
    "paths, a search for a word that all have": f"{_UI}/paths?q=package",
    "a path": f"{_UI}/paths/{{path}}",
    "its referrers": f"{_UI}/paths/{{path}}/referrers",
    "why it is kept": f"{_UI}/paths/{{path}}/why",
    "its closure": f"{_UI}/paths/{{path}}/closure",
    "pins": f"{_UI}/pins",
    "a pin": f"{_UI}/pins/release-5",
    "the difference of two paths": f"{_UI}/compare?from={{path}}&to={{other}}",
    "traffic of a year": f"{_UI}/traffic?range=year",
    "the trash": f"{_UI}/trash",
    "retention": f"{_UI}/retention",
    "collections": f"{_UI}/collections",
    "access": f"{_UI}/access",
    "own tokens": "/ui/tokens",
    "all tokens": "/ui/tokens/all",
    "the audit log": "/ui/audit",
}
"""By what they show. `{path}` and `{other}` are other paths of those that are kept, each time."""


def measure_pages(rounds: int) -> list[Row]:
    """Each page, asked for by an administrator's browser, *rounds* times `_ASKED` times."""
    million = make_million(PATHS)
    with IcehouseServer(million.data, keeps_data=True) as server:
        browser = _Browser(server)
        reset_peak_memory(server.pid)
        rows = [row for what, path in _PAGES.items() for row in _measure(browser, million, what, path, rounds)]
        rows.append(measured("peak memory of the server, pages", peak_memory_bytes(server.pid), "B"))
    return rows


def _measure(browser: "_Browser", million: Million, what: str, path: str, rounds: int) -> list[Row]:
    source = random.Random(path)
    asked = [
        path.format(path=source.choice(million.recent), other=source.choice(million.recent))
        for _ in range(rounds * _ASKED)
    ]
    seconds = [browser.get(each) for each in asked]
    title = f"page: {what}, median of {len(seconds)}"
    return [
        measured(title, median(seconds), "s", at_most(_GOAL_SECONDS, "50 ms")),
        measured("… the slowest", max(seconds), "s"),
    ]


class _Browser:
    """Logged in with the administrator's token, over one connection."""

    def __init__(self, server: IcehouseServer) -> None:
        address = urllib.parse.urlsplit(server.url)
        self._connection = http.client.HTTPConnection(address.hostname or "", address.port)
        body = urllib.parse.urlencode({"token": (server.data / "admin-token").read_text().strip()})
        self._connection.request("POST", "/login", body, {"Content-Type": "application/x-www-form-urlencoded"})
        answer = self._connection.getresponse()
        answer.read()
        cookie = re.match(r"[^;]+", answer.headers.get("set-cookie", ""))
        if cookie is None:
            raise RuntimeError(f"the login was answered with {answer.status}")
        self._headers = {"Accept": "text/html", "Cookie": cookie[0]}

    def get(self, path: str) -> float:
        """Ask for a page; the seconds from the request to the last byte, of which the server has all but a few."""
        started = time.perf_counter()
        self._connection.request("GET", path, headers=self._headers)
        answer = self._connection.getresponse()
        answer.read()
        seconds = time.perf_counter() - started
        if answer.status != HTTPStatus.OK:
            raise RuntimeError(f"{path}: status {answer.status}")
        return seconds

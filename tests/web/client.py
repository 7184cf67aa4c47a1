"""What a browser does with cookies and forms, for tests that do with them what browsers do not."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from urllib.parse import urlencode

from tests.http.running import Answer, RunningServer

FORM = "application/x-www-form-urlencoded"


@dataclass
class Client:
    """A browser."""

    server: RunningServer
    cookies: dict[str, str] = field(default_factory=dict[str, str])
    form_key: str = ""
    headers: dict[str, str] = field(default_factory=dict[str, str])

    @property
    def cookie(self) -> str:
        """Of the session."""
        return self.cookies.get("icehouse", "")

    def send(self, method: str, path: str, body: bytes | None = None, **headers: str) -> Answer:
        sent = {"Accept": "text/html", **self.headers}
        sent |= {name.replace("_", "-"): text for name, text in headers.items()}
        if self.cookies:
            sent["Cookie"] = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        answer = self.server.ask(method, path, body, token="", headers=sent)
        cookies = answer.headers.get("set-cookie", "")
        for name, value in re.findall(r'(?:^|, )([\w-]+)=("?[\w.-]*"?); HttpOnly', cookies):
            self.cookies[name] = value
        found = re.search(r'name="form_key" value="([^"]*)"', answer.body.decode())
        self.form_key = found[1] if found else self.form_key
        return answer

    def get(self, path: str) -> Answer:
        return self.send("GET", path)

    def post(self, path: str, fields: dict[str, str] | list[tuple[str, str]] | None = None, **headers: str) -> Answer:
        pairs = list(fields.items()) if isinstance(fields, dict) else fields or []
        if "form_key" not in dict(pairs):
            pairs.append(("form_key", self.form_key))
        return self.send("POST", path, urlencode(pairs).encode(), **{"Content_Type": FORM, **headers})

    def log_in(self, **fields: str) -> Answer:
        return self.post("/login", {"token": self.server.token, **fields})

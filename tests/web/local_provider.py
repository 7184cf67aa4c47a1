"""A small OpenID Connect provider: a real HTTP server that logs in whomever a test says, as RFC 6749 and 7636 ask."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import threading
import time
from collections.abc import Generator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, cast
from urllib.parse import parse_qsl, urlencode, urlsplit

from joserfc.jwk import OctKey

from tests.services.local_issuer import RSA_KEY, SigningKey, public_of, sign

CLIENT_ID = "icehouse"
CLIENT_SECRET = "s3cret:with+letters"


class Provider(ThreadingHTTPServer):
    """Logs in `person` without asking; its tokens hold `claims` too, and None leaves a claim out."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.person: dict[str, Any] = {"sub": "1", "name": "Ada Lovelace", "groups": ["dev"]}
        self.claims: dict[str, Any] = {}
        self.key: SigningKey | OctKey = RSA_KEY
        self.algorithm = "RS256"
        self.error = ""
        self.methods = ["client_secret_basic"]
        self.codes: dict[str, dict[str, str]] = {}
        self.faults: list[str] = []
        """What clients did wrong."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def token(self, request: dict[str, str]) -> str:
        now = int(time.time())
        usual = {"iss": self.url, "aud": request["client_id"], "iat": now, "exp": now + 300, "nonce": request["nonce"]}
        claims = usual | self.person | self.claims
        return sign({name: value for name, value in claims.items() if value is not None}, self.key, self.algorithm)


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        provider = cast("Provider", self.server)
        parts = urlsplit(self.path)
        if parts.path == "/.well-known/openid-configuration":
            self._answer(
                {
                    "issuer": provider.url,
                    "jwks_uri": f"{provider.url}/keys",
                    "authorization_endpoint": f"{provider.url}/authorize?tenant=1",
                    "token_endpoint": f"{provider.url}/token",
                    "token_endpoint_auth_methods_supported": provider.methods,
                }
            )
        elif parts.path == "/keys":
            self._answer({"keys": [public_of(RSA_KEY)]})
        elif parts.path == "/authorize":
            self._authorize(dict(parse_qsl(parts.query)))
        else:
            self._answer({}, 404)

    def do_POST(self) -> None:
        provider = cast("Provider", self.server)
        body = self.rfile.read(int(self.headers["Content-Length"]))
        sent = dict(parse_qsl(body.decode()))
        request = provider.codes.pop(sent.get("code", ""), None)
        if request is None:
            provider.faults.append("unknown code")
            self._answer({"error": "invalid_grant"}, 400)
            return
        digest = hashlib.sha256(sent["code_verifier"].encode()).digest()
        basic = base64.b64encode(b"icehouse:s3cret%3Awith%2Bletters").decode()
        is_client = (
            self.headers.get("Authorization") == f"Basic {basic}"
            if "client_secret_basic" in provider.methods
            else (sent["client_id"], sent["client_secret"]) == (CLIENT_ID, CLIENT_SECRET)
        )
        checks = {
            "verifier": base64.urlsafe_b64encode(digest).rstrip(b"=").decode() == request["code_challenge"],
            "redirect": sent["redirect_uri"] == request["redirect_uri"],
            "client": is_client,
        }
        provider.faults += [name for name, is_right in checks.items() if not is_right]
        self._answer({"access_token": "x", "token_type": "Bearer", "id_token": provider.token(request)})

    def _authorize(self, request: dict[str, str]) -> None:
        provider = cast("Provider", self.server)
        code = f"code-{len(provider.codes)}-{time.monotonic_ns()}"
        provider.codes[code] = request
        answer = {"error": provider.error} if provider.error else {"code": code}
        location = f"{request['redirect_uri']}?{urlencode(answer | {'state': request['state'], 'iss': provider.url})}"
        self.send_response(302)
        self.send_header("Location", location)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _answer(self, value: object, status: int = 200) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        with contextlib.suppress(ConnectionError):
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  as in the class above
        del format, args


@contextlib.contextmanager
def run_provider() -> Generator[Provider]:
    with Provider() as provider:
        threading.Thread(target=provider.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield provider
        provider.shutdown()

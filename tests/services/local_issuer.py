"""An OpenID Connect issuer of the tests' own: a real HTTP server that signs with real keys, for jobs as GitHub's."""

from __future__ import annotations

import base64
import contextlib
import json
import threading
import time
from collections.abc import Generator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, cast
from urllib.parse import parse_qs, urlsplit

from joserfc import jws
from joserfc.jwk import ECKey, OctKey, OKPKey, RSAKey

SigningKey = RSAKey | ECKey | OKPKey

RSA_KEY = RSAKey.generate_key(2048, {"kid": "rsa"}, private=True)
"""Takes long to make, so all tests share it."""

RUNNER_SECRET = "runner-secret"


class _AnyAlgorithm(jws.JWSRegistry):
    """Signs with whatever a test says, also what nobody should accept."""

    def get_alg(self, name: str) -> Any:  # noqa: ANN401  the library's type is private
        return self.algorithms["Ed25519" if name == "EdDSA" else name]


def encode(value: object) -> str:
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def sign(
    claims: Mapping[str, object],
    key: SigningKey | OctKey = RSA_KEY,
    algorithm: str = "RS256",
    **header: object,
) -> str:
    """A token of these claims."""
    protected = {"typ": "JWT", "alg": algorithm, "kid": key.kid, **header}
    registry = _AnyAlgorithm(strict_check_header=False)
    payload = json.dumps(claims).encode()
    return jws.serialize_compact(protected, payload, key, registry=registry)


def public_of(key: SigningKey) -> dict[str, Any]:
    return cast("dict[str, Any]", key.as_dict(private=False)) | {"use": "sig"}


class Issuer(ThreadingHTTPServer):
    """Its keys are `keys`; it counts what is asked for."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.keys: list[dict[str, Any]] = [public_of(RSA_KEY)]
        self.signing_key: SigningKey = RSA_KEY
        self.algorithm = "RS256"
        self.job: dict[str, object] = {}
        """The claims of the job whose identity is asked for."""
        self.paths: list[str] = []
        self.documents: dict[str, bytes] = {}
        """Answers in place of the usual ones."""
        self.status = 200
        self.location = ""
        self.given = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def claims(self, audience: str, **claims: object) -> dict[str, object]:
        """Claims of a job on the main branch at GitHub, with what a test says otherwise; None leaves one out."""
        now = int(time.time())
        self.given += 1
        usual: dict[str, object] = {
            "iss": self.url,
            "aud": audience,
            "sub": "repo:org/app:ref:refs/heads/main",
            "jti": f"job-{self.given}",
            "iat": now,
            "nbf": now - 5,
            "exp": now + 300,
            "repository": "org/app",
            "repository_owner": "org",
            "ref": "refs/heads/main",
            "event_name": "push",
            "sha": "1f" * 20,
            "run_id": "4711",
            "workflow_ref": "org/app/.github/workflows/ci.yml@refs/heads/main",
        }
        return {name: value for name, value in (usual | claims).items() if value is not None}

    def token(self, audience: str, **claims: object) -> str:
        return sign(self.claims(audience, **claims), self.signing_key, self.algorithm)

    def variables(self) -> dict[str, str]:
        """What GitHub Actions gives a job that may have an identity."""
        return {
            "GITHUB_ACTIONS": "true",
            "ACTIONS_ID_TOKEN_REQUEST_URL": f"{self.url}/identity?api-version=2.0",
            "ACTIONS_ID_TOKEN_REQUEST_TOKEN": RUNNER_SECRET,
        }


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        issuer = cast("Issuer", self.server)
        parts = urlsplit(self.path)
        issuer.paths.append(parts.path)
        status, body = issuer.status, b""
        if parts.path in issuer.documents:
            body = issuer.documents[parts.path]
        elif parts.path == "/.well-known/openid-configuration":
            body = json.dumps({"issuer": issuer.url, "jwks_uri": f"{issuer.url}/keys"}).encode()
        elif parts.path == "/keys":
            body = json.dumps({"keys": issuer.keys}).encode()
        elif parts.path == "/identity" and self.headers.get("Authorization") == f"Bearer {RUNNER_SECRET}":
            (audience,) = parse_qs(parts.query)["audience"]
            body = json.dumps({"value": issuer.token(audience, **issuer.job)}).encode()
        else:
            status = 404
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        if issuer.location:
            self.send_header("Location", issuer.location)
        self.end_headers()
        with contextlib.suppress(ConnectionError):
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  as in the class above
        del format, args


@contextlib.contextmanager
def run_issuer() -> Generator[Issuer]:
    with Issuer() as issuer:
        threading.Thread(target=issuer.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield issuer
        issuer.shutdown()

"""A bucket of S3 on this machine, as far as reading goes."""

import threading
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit
from xml.sax.saxutils import escape

PAGE_KEYS = 2
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "AKIDEXAMPLE", "AWS_SECRET_ACCESS_KEY": "secret"}


@dataclass
class Bucket:
    """What a server of S3 answers, as far as reading goes: objects, and lists of two keys a page."""

    objects: dict[str, bytes] = field(default_factory=dict[str, bytes])
    is_public: bool = False
    port: int = 0
    signed_by: list[str | None] = field(default_factory=list["str | None"])

    def answer(self, target: str, authorization: str | None) -> tuple[int, bytes]:
        parts = urlsplit(target)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        prefix = "AWS4-HMAC-SHA256 Credential="
        signer = authorization.removeprefix(prefix).partition("/")[0] if authorization else None
        self.signed_by.append(signer)
        if not self.is_public and signer != "AKIDEXAMPLE":
            return 403, b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"
        key = parts.path.removeprefix("/bucket").removeprefix("/")
        if key:
            if key not in self.objects:
                return 404, b"<Error><Code>NoSuchKey</Code></Error>"
            return 200, self.objects[key]
        keys = sorted(each for each in self.objects if each.startswith(query.get("prefix", "")))
        start = int(query.get("continuation-token", "0"))
        page, rest = keys[start : start + PAGE_KEYS], keys[start + PAGE_KEYS :]
        contents = "".join(
            f"<Contents><Key>{escape(each)}</Key><LastModified>2026-11-25T00:00:00.000Z</LastModified>"
            f'<ETag>"x"</ETag><Size>{len(self.objects[each])}</Size></Contents>'
            for each in page
        )
        more = f"<NextContinuationToken>{start + PAGE_KEYS}</NextContinuationToken>" if rest else ""
        truncated = "true" if rest else "false"
        listing = f"<ListBucketResult><IsTruncated>{truncated}</IsTruncated>{contents}{more}</ListBucketResult>"
        return 200, listing.encode()

    def url(self, prefix: str = "") -> str:
        return f"s3://bucket{prefix}?endpoint=127.0.0.1:{self.port}&scheme=http"


@contextmanager
def serve_bucket() -> Generator[Bucket]:
    """A bucket that is served while the body runs."""
    made = Bucket()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body = made.answer(self.path, self.headers.get("Authorization"))
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Last-Modified", "Wed, 25 Nov 2026 00:00:00 GMT")
            self.send_header("ETag", '"x"')
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002  as in the class above
            del format, args

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made.port = server.server_port
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    yield made
    server.shutdown()
    server.server_close()

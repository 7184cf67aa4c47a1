"""A server that gives the answers that a test prepared."""

from http.server import BaseHTTPRequestHandler, HTTPServer

Answer = tuple[int, dict[str, str], bytes]


class ScriptedServer(HTTPServer):
    """Gives one prepared answer after another; keeps the lines and headers of the requests."""

    answers: list[Answer]
    requests: list[tuple[str, str, str | None]]
    answered: list[str]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    def answer(self) -> None:
        server = self.server
        assert isinstance(server, ScriptedServer)
        self.rfile.read(int(self.headers.get("Content-Length", "0")))
        server.requests.append((self.command, self.path, self.headers.get("Authorization")))
        status, headers, body = server.answers.pop(0)
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)
        server.answered.append(self.path)

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = answer  # noqa: N815  the names that http.server looks for

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  as in the class above
        del format, args

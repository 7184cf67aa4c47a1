import socket

import pytest

from tests.http.running import RunningServer

JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module", autouse=True)
def cache(server: RunningServer) -> None:
    server.create_cache("main")


@pytest.mark.parametrize(
    "body",
    [b'{"hash_parts":["\xff"]}', b'{"\xed\xa0\x80":1}', b"[" * 5000, b'{"a":' * 5000],
    ids=["in a value", "in a name", "arrays", "objects"],
)
def test_body_that_the_json_library_has_errors_of_its_own_for_is_a_fault_of_the_client(
    server: RunningServer, body: bytes
) -> None:
    # Regression: these were answered with status 500.
    answer = server.ask("POST", "/api/v1/caches/main/missing", body, headers=JSON)
    assert (answer.status, answer.json()["title"]) == (400, "Malformed request")
    assert "not JSON" in answer.json()["detail"]


def test_client_that_leaves_in_the_middle_of_a_json_body_is_no_error_of_the_server(server: RunningServer) -> None:
    # Regression: it counted as status 500.
    head = f"POST /api/v1/caches/main/missing HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {server.token}\r\n"
    with server.connect() as connection:
        connection.sendall(head.encode() + b"Content-Length: 100\r\n\r\n{")
        connection.shutdown(socket.SHUT_WR)
        assert connection.recv(1000).startswith(b"HTTP/1.1 400 ")

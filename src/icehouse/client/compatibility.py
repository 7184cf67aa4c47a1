"""Whether a client and a server understand each other, by their versions."""


def compare_versions(client: str, server: str) -> str | None:
    """What may go wrong between two versions, such as ``0.1.0``; `None`: nothing.

    Versions with the same first two numbers understand each other. A later client may send what an earlier server does
    not know, and be refused; an earlier client may not understand what a later server answers.
    """
    ours, theirs = _release(client), _release(server)
    if theirs is None:
        return f"the server says that it is version {server!r}, which is none of Icehouse's"
    if ours is None or ours == theirs:
        return None
    order = "older" if theirs < ours else "newer"
    return f"the server has {server}, {order} than this client, {client}: some commands may not work"


def _release(version: str) -> tuple[int, int] | None:
    numbers = version.split(".")[:2]
    if len(numbers) < len(("major", "minor")) or not all(part.isascii() and part.isdigit() for part in numbers):
        return None
    return int(numbers[0]), int(numbers[1])

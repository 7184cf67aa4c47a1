"""When a server does by itself what must be done now and then."""

from typing import Final

IDLE_COLLECT_SECONDS: Final = 7 * 86_400
"""From one collection to the next where no cache lets anything go: what broken pushes left still takes room."""

VERIFY_REST_SECONDS: Final = 86_400
"""From the end of a verification of everything to the begin of the next: a small store would be read all the time."""


def is_collection_due(last_began_at: int | None, *, has_work: bool, collect_seconds: int, now: int) -> bool:
    """Tell whether a collection of all caches is due.

    Args:
        last_began_at: when the last one began; `None`: there was none.
        has_work: whether some cache lets anything go, or something is on its way out.
        collect_seconds: from one to the next.
        now: seconds since the epoch.
    """
    interval = collect_seconds if has_work else max(collect_seconds, IDLE_COLLECT_SECONDS)
    return last_began_at is None or now - last_began_at >= interval


def is_verification_due(completed_at: int | None, *, now: int) -> bool:
    """Tell whether the verification goes on.

    Args:
        completed_at: when it was through with everything; `None`: it is not.
        now: seconds since the epoch.
    """
    return completed_at is None or now - completed_at >= VERIFY_REST_SECONDS

"""Trying again what may pass by itself, with growing waits."""

from collections.abc import Awaitable, Callable
from typing import TypeVar

import stamina

T = TypeVar("T")


async def retry(
    work: Callable[[], Awaitable[T]],
    *,
    after: Exception | None = None,
    on: type[Exception] | Callable[[Exception], bool | float],
    attempts: int,
    seconds: float = 45.0,
    wait_initial: float = 0.1,
    wait_max: float,
) -> T:
    """What *work* gives, done until it succeeds.

    Args:
        work: what to do.
        after: how the first try failed, if there was one: it counts as one of the *attempts*.
        on: which errors may pass, or for each whether it does, or the seconds after which it is to be tried again.
        attempts: how often it is tried at most.
        seconds: after which it is not tried again.
        wait_initial: seconds before the second try, about; twice as many before each that follows.
        wait_max: the most seconds between two.

    Raises:
        Exception: the last one of *work*'s.
    """
    stamina.instrumentation.set_on_retry_hooks([])  # else each retry is a line on stderr, which is for people here
    async for attempt in stamina.retry_context(
        on=on, attempts=attempts, timeout=seconds, wait_initial=wait_initial, wait_max=wait_max
    ):
        with attempt:
            if after is not None:
                failure, after = after, None
                raise failure
            return await work()
    raise AssertionError  # stamina ends its loop by a result or an error

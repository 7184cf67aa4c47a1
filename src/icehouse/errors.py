"""The tree of errors that Icehouse raises on purpose.

::

    IcehouseError
        InvalidFormat
        NotFound
        Conflict
        Unauthenticated
        Denied
        Refused
            TooLarge
            Unsupported
            RateLimited
            OverQuota
        StorageError
            Unavailable
                CannotSign
            Corrupt

A foreign exception becomes one of these where it enters. The text of an error is meant for the person who caused it: it
names the place, the value and what was expected, and holds no secret. Statuses and exit codes are not known here: one
table in ``http`` and one in ``cli`` give each class its own.
"""

from __future__ import annotations


class IcehouseError(Exception):
    """Anything that Icehouse raises on purpose. Raise one of its subclasses."""


class InvalidFormat(IcehouseError, ValueError):
    """Text or bytes that break a format: a fault of whoever made them, and final."""


class NotFound(IcehouseError):
    """Nothing is there, or nothing that this caller may know of."""


class Conflict(IcehouseError):
    """The present state forbids what was asked; the same request may be right in another state."""


class Unauthenticated(IcehouseError):
    """No credentials, or none that are valid, where some are needed (401)."""


class Denied(IcehouseError):
    """The caller is known and may not do this."""


class Refused(IcehouseError):
    """A well-formed request that the server will not carry out. Raise one of its subclasses."""


class TooLarge(Refused):
    """More bytes or more items than one request may bring (413)."""


class Unsupported(Refused):
    """A representation, such as a compression, that is not read here (415)."""


class OverQuota(Refused):
    """The cache's hard limit of stored bytes is reached (507)."""


class RateLimited(Refused):
    """Too many requests for now (429).

    ``retry_after_seconds`` says when asking again makes sense; it is at least 1.
    """

    def __init__(self, message: str, *, retry_after_seconds: int) -> None:
        """Keep the message for people and the delay, in seconds, for programs."""
        super().__init__(message)
        self.retry_after_seconds = max(1, retry_after_seconds)


class StorageError(IcehouseError):
    """A backend of bytes or rows failed. Raise one of its subclasses."""


class Unavailable(StorageError):
    """A backend did not answer or could not do it now; this may pass by itself and is worth a retry.

    ``retry_after_seconds`` says when, if the backend said so itself.
    """

    def __init__(self, message: str, *, retry_after_seconds: int | None = None) -> None:
        """Keep the message for people and the delay, in seconds, for programs."""
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class CannotSign(Unavailable):
    """A signing key that is kept outside of the database does not sign now; its text is fit for clients."""


class Corrupt(StorageError):
    """Stored bytes differ from their hash: never retried, always reported."""

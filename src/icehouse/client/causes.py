"""Why a request failed, in the words that help most."""

from pyreqwest.exceptions import PyreqwestError


def cause_of(exc: PyreqwestError) -> str:
    """The innermost cause, which says most: 'Connection refused' rather than 'error sending request'."""
    details = getattr(exc, "details", None)
    causes = details.get("causes") if isinstance(details, dict) else None  # pyright: ignore[reportUnknownMemberType,reportUnknownVariableType] - a library's untyped details
    if causes:
        return str(causes[-1]["message"])  # pyright: ignore[reportUnknownArgumentType] - as above
    return exc.message

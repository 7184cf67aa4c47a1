"""Tokens as rows of a table, on each page that lists some."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from icehouse.api.tokens import TokenView
from icehouse.rules.token_filter import TokenState, state_of


@dataclass(frozen=True, slots=True)
class TokenRow:
    """A token, as `ui.token_table` shows it."""

    token: TokenView
    state: TokenState
    is_own: bool
    """Whether the session acts by it."""


def make_rows(tokens: Sequence[TokenView], *, own_id: int, now: int) -> tuple[TokenRow, ...]:
    """Rows in the order of *tokens*."""
    return tuple(
        TokenRow(token, state_of(revoked_at=token.revoked_at, expires_at=token.expires_at, now=now), token.id == own_id)
        for token in tokens
    )

"""The page in place of one that cannot be shown."""

from __future__ import annotations

from dataclasses import dataclass

from icehouse.web.pages import Page


@dataclass(frozen=True, slots=True)
class ErrorPage(Page):
    """All that the template sees."""

    template = "error.html"

    heading: str
    detail: str
    request_id: str | None
    """To quote, if it is the server's fault."""

    @property
    def title(self) -> str:
        """What is the matter."""
        return self.heading

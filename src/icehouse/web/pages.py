"""What a page is made of, and how it becomes HTML: its own dataclass, the frame around it, and a template."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import ClassVar, Final, cast

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from icehouse.web.assets import Assets

_UNITS: Final = ("KiB", "MiB", "GiB", "TiB", "PiB")
_STEP: Final = 1024
_FEW: Final = 100
_PERIODS: Final = ((86_400, "day"), (3_600, "hour"), (60, "minute"), (1, "second"))


class Page:
    """Base of the dataclasses that templates see. The template gets one of these as `page`, and the `Frame`."""

    template: ClassVar[str]
    """The name of its file in `templates`, which extends `layout.html`."""

    @property
    def title(self) -> str:
        """What stands in the browser's tab, before the name of the product."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class Frame:
    """What stands around every page."""

    path: str
    """Of the page itself: the entry of the navigation that is current."""
    back: str
    """Where a login leads."""
    version: str
    public_url: str
    who: str | None
    """Who is logged in; `None`: nobody."""
    form_key: str
    """What every form that is sent by POST must hold."""
    is_admin: bool = False
    """Whether they administer something."""
    is_admin_of_all: bool = False
    """Whether they administer all caches."""


class Renderer:
    """Makes HTML of pages. Everything that is put into a template is escaped."""

    def __init__(self, assets: Assets) -> None:
        self._environment = Environment(
            loader=PackageLoader("icehouse.web"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            auto_reload=False,
        )
        environment = self._environment
        cast("dict[str, object]", environment.globals)["asset"] = assets.url
        environment.filters["size"] = show_size
        environment.filters["change"] = show_change
        environment.filters["day"] = show_day
        environment.filters["moment"] = show_moment
        environment.filters["period"] = show_period
        environment.filters["about"] = show_about

    def render(self, page: Page, frame: Frame) -> bytes:
        """The page, in UTF-8."""
        return self._environment.get_template(page.template).render(page=page, frame=frame).encode()


def show_size(size: int) -> str:
    """Bytes for people: ``812 bytes``, ``1.4 GiB``, ``240 GiB``."""
    if size < _STEP:
        return f"{size} byte{'' if size == 1 else 's'}"
    power = min((size.bit_length() - 1) // 10, len(_UNITS))
    amount = size / _STEP**power
    return f"{amount:.0f} {_UNITS[power - 1]}" if amount >= _FEW else f"{amount:.1f} {_UNITS[power - 1]}"


def show_change(size: int) -> str:
    """By how many bytes something grew or shrank, for people: with a sign, or ``±0``."""
    sign = "+" if size > 0 else "\N{MINUS SIGN}"
    return f"{sign}{show_size(abs(size))}" if size else "±0"


def show_day(seconds: int) -> Markup:
    """A time as its day, UTC, with the second beside it for who asks."""
    when = datetime.fromtimestamp(seconds, UTC)
    exact = f"{when:%Y-%m-%d %H:%M:%S} UTC"
    return Markup('<time datetime="{}" title="{}">{} {:%B %Y}</time>').format(
        f"{when:%Y-%m-%dT%H:%M:%SZ}", exact, when.day, when
    )


def show_moment(seconds: int) -> Markup:
    """A time to the minute, UTC, with the second beside it for who asks."""
    when = datetime.fromtimestamp(seconds, UTC)
    exact = f"{when:%Y-%m-%d %H:%M:%S} UTC"
    return Markup('<time datetime="{}" title="{}">{} {:%B %Y, %H:%M} UTC</time>').format(
        f"{when:%Y-%m-%dT%H:%M:%SZ}", exact, when.day, when
    )


def show_period(seconds: int) -> str:
    """A length of time for people, in the largest unit that is exact: ``90 seconds``, ``15 minutes``, ``7 days``."""
    size, unit = next((size, unit) for size, unit in _PERIODS if seconds % size == 0)
    count = seconds // size
    return f"{count} {unit}{'' if count == 1 else 's'}"


def show_about(seconds: int) -> str:
    """A length of time for people, rounded down: ``12 seconds``, ``3 minutes``, ``2 days``."""
    size, unit = next(((size, unit) for size, unit in _PERIODS if seconds >= size), _PERIODS[-1])
    count = max(0, seconds // size)
    return f"{count} {unit}{'' if count == 1 else 's'}"

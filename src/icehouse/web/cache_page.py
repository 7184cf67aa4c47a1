"""A cache's page, at the substituter's own address: what it is, and how to use it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from litestar import Response, get
from litestar.di import NamedDependency
from litestar.params import FromPath

from icehouse.api.caches import CacheView
from icehouse.nix.snippets import Snippet, netrc_lines, render_snippet
from icehouse.nix.used_caches import UsedCache
from icehouse.rules.access import Permission
from icehouse.web.cache_tabs import CacheHead, make_head
from icehouse.web.pages import Page
from icehouse.web.visits import Visit

_TITLES = {
    Snippet.NIX_CONF: "nix.conf",
    Snippet.NIXOS: "NixOS",
    Snippet.FLAKE: "flake.nix",
    Snippet.HOME_MANAGER: "home-manager",
}
_WHERE = {
    Snippet.NIX_CONF: "Into /etc/nix/nix.conf for everybody on a machine, or into ~/.config/nix/nix.conf for yourself.",
    Snippet.NIXOS: "As a module of its own among the imports of configuration.nix.",
    Snippet.FLAKE: "Nix asks whoever builds the flake before it heeds this.",
    Snippet.HOME_MANAGER: "Into the configuration of home-manager.",
}


@dataclass(frozen=True, slots=True)
class Way:
    """One way to have Nix use the cache."""

    name: str
    title: str
    where: str
    text: str


@dataclass(frozen=True, slots=True)
class CachePage(Page):
    """All that the template sees."""

    template = "cache.html"

    head: CacheHead
    cache: CacheView
    ways: tuple[Way, ...]
    netrc: str | None
    """The line for passwords, if the cache is private."""

    @property
    def title(self) -> str:
        """The cache's name."""
        return self.cache.name

    @property
    def use_command(self) -> str:
        """What to type where `icehouse` is installed."""
        return f"icehouse use {self.cache.url}"

    @property
    def push_command(self) -> str:
        """What to type to put a build into it."""
        return f"nix-build | icehouse push {self.cache.url}"


def make_cache_page(head: CacheHead, cache: CacheView) -> CachePage:
    """The page about *cache*."""
    used = [UsedCache(cache.url, tuple(cache.public_keys), cache.is_public)]
    netrc = "\n".join(netrc_lines(used)) or None

    def netrc_file(form: Snippet) -> str | None:
        return None if cache.is_public or form is Snippet.FLAKE else "/etc/nix/netrc"

    ways = tuple(
        Way(form.name.lower(), _TITLES[form], _WHERE[form], render_snippet(form, used, netrc_file(form)).rstrip("\n"))
        for form in Snippet
    )
    return CachePage(head, cache, ways, netrc)


@get("/{cache:str}")
async def show_cache(cache: FromPath[str], visit: NamedDependency[Visit]) -> Response[Any]:
    """A cache's page."""
    entry = await visit.enter(cache, Permission.PULL)
    cache_view = await visit.parts.caches.show_cache(entry.cache, entry.grant)
    return visit.show(make_cache_page(make_head(visit, entry, "Use"), cache_view))

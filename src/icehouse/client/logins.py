"""Which server a command talks to, and with which token: the configuration file of the client and the environment."""

import json
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Self, cast
from urllib.parse import urlsplit

from icehouse.client.jobs import JobLogin, make_job_login
from icehouse.client.private_files import read_text, write_text
from icehouse.errors import Conflict, InvalidFormat, NotFound
from icehouse.rules import access
from icehouse.rules.access import parse_cache_name

URL_VARIABLE: Final = "ICEHOUSE_URL"
TOKEN_VARIABLE: Final = "ICEHOUSE_TOKEN"  # noqa: S105  the name of a variable


@dataclass(frozen=True, slots=True)
class Login:
    """A server's address, without a slash at the end, and the token for it."""

    url: str
    token: str | None = field(default=None, repr=False)
    job: JobLogin | None = None
    """How the job of a CI that this runs in gets one, where there is no token and it is about one cache."""


@dataclass(frozen=True, slots=True)
class CacheAddress:
    """A cache on a server."""

    login: Login
    name: str


@dataclass(frozen=True, slots=True)
class Logins:
    """The servers that the user logged in to; `default` is the latest, which bare cache names belong to."""

    default: str | None = None
    tokens: Mapping[str, str | None] = field(default_factory=dict[str, str | None], repr=False)

    @classmethod
    def read(cls, file: Path) -> Self:
        """The logins in *file*; none if there is no such file.

        Raises:
            InvalidFormat: the file is not what `write` makes.
        """
        text = read_text(file)
        if text is None:
            return cls()
        try:
            document = tomllib.loads(text)
        except tomllib.TOMLDecodeError as exc:
            raise InvalidFormat(f"{file}: {exc}; mend it, or delete it and log in again") from exc
        default, servers = document.get("default"), document.get("servers", {})
        if not (default is None or isinstance(default, str)) or not isinstance(servers, dict):
            raise InvalidFormat(f"{file}: expected a string `default` and tables `servers`")
        tokens: dict[str, str | None] = {}
        for url, server in cast("dict[str, object]", servers).items():
            token = cast("dict[str, object]", server).get("token") if isinstance(server, dict) else 0
            if not (token is None or isinstance(token, str)):
                raise InvalidFormat(f'{file}: servers."{url}": expected a table with a string `token`')
            tokens[parse_server_url(url)] = None if token is None else parse_token(token, f'{file}: servers."{url}"')
        return cls(None if default is None else parse_server_url(default), tokens)

    def write(self, file: Path) -> None:
        """Replace *file* with these logins, for its owner's eyes only."""
        lines = ["# Written by `icehouse login`. It holds tokens: keep it to yourself."]
        if self.default is not None:
            lines.append(f"default = {json.dumps(self.default)}")
        for url, token in sorted(self.tokens.items()):
            lines += ["", f"[servers.{json.dumps(url)}]"]
            if token is not None:
                lines.append(f"token = {json.dumps(token)}")
        write_text(file, "\n".join(lines) + "\n")

    def added(self, login: Login) -> Self:
        """With *login* as the latest."""
        return type(self)(login.url, {**self.tokens, login.url: login.token})


def default_login(logins: Logins, environment: Mapping[str, str]) -> Login:
    """The server that bare cache names belong to. ``$ICEHOUSE_URL`` and ``$ICEHOUSE_TOKEN`` win over the file.

    Raises:
        NotFound: the user did not say which server.
        InvalidFormat: a variable is malformed.
    """
    url_text = environment.get(URL_VARIABLE)
    url = parse_server_url(url_text) if url_text else logins.default
    if url is None:
        raise NotFound(
            f"which server? None is logged in to; run `icehouse login URL`, or set ${URL_VARIABLE}, "
            "or write the cache as a whole URL"
        )
    return _login_for(url, logins, environment)


def find_cache_address(text: str, logins: Logins, environment: Mapping[str, str]) -> CacheAddress:
    """The cache that the user means: a name on the logged-in server, or a whole URL.

    A token is only ever sent to the server that it is for.

    Raises:
        InvalidFormat: neither a name nor a URL of a cache.
        NotFound: a name, and no server is known.
    """
    if "://" not in text:
        return _as_job(CacheAddress(default_login(logins, environment), parse_cache_name(text)), logins, environment)
    server, _, name = parse_server_url(text).rpartition("/")
    if not urlsplit(server).netloc:
        raise InvalidFormat(f"cache {text!r}: expected the server's address, a slash and the cache's name")
    return _as_job(CacheAddress(_login_for(server, logins, environment), parse_cache_name(name)), logins, environment)


def parse_server_url(text: str) -> str:
    """The address of a server, in one spelling: no slash at the end, scheme and host in small letters.

    Raises:
        InvalidFormat: not an address of http or https, or it carries a user, a query or a fragment.
    """
    try:
        parts = urlsplit(text.strip())
        host, _port = parts.hostname, parts.port
    except ValueError as exc:
        raise InvalidFormat(f"address {text!r}: {exc}") from exc
    if parts.scheme not in {"http", "https"} or not host or re.search(r"[\s\"\\\x00-\x1f\x7f]", text.strip()):
        raise InvalidFormat(f"address {text!r}: expected for instance https://cache.example.org")
    if parts.username is not None or parts.password is not None:
        raise InvalidFormat(f"address with a user in front of {host}: give the token with --token-file instead")
    if parts.query or parts.fragment:
        raise InvalidFormat(f"address {text!r}: a server's address has no query and no fragment")
    return f"{parts.scheme}://{parts.netloc.lower()}{parts.path.rstrip('/')}"


def parse_token(text: str, place: str) -> str:
    """A token, with the spaces and newlines around it dropped. The text is not repeated in errors, *place* is.

    Its checksum finds what was cut off or mistyped before any server is asked.

    Raises:
        InvalidFormat: it is not one of the tokens that `icehouse.rules.access.make_token` makes.
    """
    try:
        return access.parse_token(text.strip())
    except InvalidFormat as exc:
        raise InvalidFormat(f"{place}: {exc}; copy it again, or have a new one made") from None


def _login_for(url: str, logins: Logins, environment: Mapping[str, str]) -> Login:
    token = environment.get(TOKEN_VARIABLE)
    if token and _is_for(url, logins, environment):
        return Login(url, parse_token(token, f"${TOKEN_VARIABLE}"))
    return Login(url, logins.tokens.get(url))


def _as_job(address: CacheAddress, logins: Logins, environment: Mapping[str, str]) -> CacheAddress:
    """The same with the identity of the job that this runs in, if it runs in one, and no token is known."""
    url = address.login.url
    if address.login.token is not None:
        return address
    job = make_job_login(environment, url, address.name, may_give=_is_for(url, logins, environment))
    return CacheAddress(Login(url, None, job), address.name)


def _is_for(url: str, logins: Logins, environment: Mapping[str, str]) -> bool:
    """Whether a secret of the environment is meant for the server at *url*: the one of ``$ICEHOUSE_URL``, if set."""
    named = environment.get(URL_VARIABLE)
    if named:
        return parse_server_url(named) == url
    return logins.default is None or logins.default == url


def require_token(login: Login) -> str:
    """The token of a login.

    Raises:
        Conflict: there is none.
    """
    if login.token is None:
        raise Conflict(f"no token is known for {login.url}; run `icehouse login {login.url} --token-file FILE`")
    return login.token

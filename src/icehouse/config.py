"""Settings of the server: read once, from flags, then the environment, then a file, then defaults."""

from __future__ import annotations

import ipaddress
import os
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final, Literal, Self, cast
from urllib.parse import urlsplit

from icehouse.errors import InvalidFormat
from icehouse.rules.people import parse_role
from icehouse.rules.trust import parse_issuer

ENVIRONMENT_PREFIX: Final = "ICEHOUSE_"
FILE_NAME: Final = "icehouse.toml"
DEFAULT_DATA_DIR: Final = "icehouse-data"

LogLevel = Literal["debug", "info", "warning", "error"]
LogFormat = Literal["auto", "console", "json"]

_LOG_LEVELS: Final = ("debug", "info", "warning", "error")
_LOG_FORMATS: Final = ("auto", "console", "json")
_MAX_WORKERS: Final = 64
_MAX_PORT: Final = 65_535
_MAX_SECONDS: Final = 366 * 86_400
_MAX_BACKUPS: Final = 10_000
_MAX_DAYS: Final = 3_650
_MAX_RATE: Final = 1_000_000
_TIME_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 7 * 86_400}
_SIZE_UNITS: Final = {"KiB": 1024, "MiB": 1024**2, "GiB": 1024**3, "TiB": 1024**4}


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSettings:
    """How a server runs. Each is a flag, an environment variable (`ICEHOUSE_PORT`) and a key of the file (`port`)."""

    data_dir: Path = Path(DEFAULT_DATA_DIR)
    """Where everything is kept. Another folder is another server, with its own caches, tokens and keys. Not in the
    file, which is in this folder."""

    host: str = "127.0.0.1"
    """The address that is listened on. With `0.0.0.0` or `::` other machines reach the server, in clear text: put a
    proxy with TLS in front of it."""

    port: int = 8080
    """The TCP port that is listened on; 0 takes a free one, which the first line of output names."""

    public_url: str = ""
    """The address under which clients reach the server. It stands in what `use` writes, and its host in the names of
    new signing keys; keys that exist keep theirs. Empty: `http://<host>:<port>`."""

    trusted_proxies: tuple[str, ...] = ()
    """Addresses or networks of proxies whose `X-Forwarded-For` is believed in the log. Others' is ignored."""

    workers: int = 1
    """Processes that answer requests. More of them answer more narinfos where there are processors for them; each has
    its own memory, its own limit of uploads, and its own counters under /metrics."""

    log_level: LogLevel = "info"
    """`debug` also logs checks of health and clients that leave, `warning` no longer logs requests."""

    log_format: LogFormat = "auto"
    """`json`: a line of JSON for each event; `console`: for people; `auto`: for people on a terminal."""

    max_nar_bytes: int = 64 * 1024**3
    """The largest NAR that is accepted, unpacked. A smaller limit refuses larger paths with status 413; what is stored
    stays. Also written with a unit: `64GiB`."""

    zstd_level: int = 3
    """The level that clients are told to compress chunks at, 1 to 19. A higher one makes pushes slower and stores
    somewhat less; what is stored stays as it is."""

    collect_seconds: int = 6 * 3600
    """How often the server lets go of what the retention of its caches does not keep. More often, budgets are exceeded
    for less long, and each time costs reading all rows. 0: only `icehouse gc` does it. Also with a unit: `6h`."""

    keep_backups: int = 7
    """The server backs up its database once a day, beside the packs, and keeps so many backups. 0: it makes none, and
    those that are there stay."""

    verify_speed: int = 1024**2
    """How fast the server reads back what it keeps, for ever, to find damage before a client does. Faster finds it
    sooner, and takes more of the disk and the processor from requests. 0: only `icehouse verify` does it. Also written
    with a unit: `4MiB`."""

    download_days: int = 30
    """How long the server remembers who downloaded which path, so that `icehouse revoke` can name them: a token, or the
    address where none was needed. 0: it notes nothing, and forgets what it noted."""

    requests_per_second: int = 200
    """How many requests to the API each token, and each address, may send a second in the long run, to each worker; ten
    times as many at once. Beyond, they are told to wait (429), which `icehouse push` does. What Nix reads and uploads
    is not limited, nor are loopback addresses. 0: no limit."""

    failed_logins_per_minute: int = 60
    """How many requests with wrong credentials each address may send to the API a minute, to each worker. Beyond, those
    are told to wait (429), and so is a token that was not accepted before. 0: no limit."""

    oidc_issuer: str = ""
    """The OpenID Connect provider by which people log into the web page, exactly as its tokens name it. Empty: they log
    in with tokens. Tokens work in any case."""

    oidc_client_id: str = ""
    """As what this server is known to the provider, which sends people back to `<public URL>/login/callback`."""

    oidc_client_secret_file: str = ""
    """A file with the secret that the provider gave. Empty: a public client, which PKCE alone protects."""

    oidc_scopes: str = "openid profile email"
    """What the provider is asked for. Some tell groups only where `groups` is among it."""

    oidc_groups_claim: str = "groups"
    """The claim of the identity token that has the person's groups. Dots lead into it: `realm_access.roles`."""

    oidc_roles: tuple[str, ...] = ()
    """What members of a group may do: `GROUP=PERMISSIONS:PATTERN`, such as `developers=pull,push:team-*`. The group
    `*` is everybody whom the provider lets in. Who is in several groups has all their roles, who is in none gets no
    further. A change holds from the next login on."""

    @property
    def address(self) -> str:
        """`http://<host>:<port>`."""
        return f"http://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"

    @property
    def url(self) -> str:
        """The address under which clients reach the server, without a slash at the end."""
        return self.public_url or self.address

    @classmethod
    def load(cls, flags: Mapping[str, object], environment: Mapping[str, str]) -> Self:
        """Read the settings.

        Args:
            flags: what was typed; `None` where nothing was.
            environment: all variables; those of other programs, and of the client, are not looked at.

        Raises:
            InvalidFormat: something is not valid; the message has a line for each fault.
        """
        faults: list[str] = []
        values: dict[str, object] = {}
        chosen = flags.get("data_dir") or environment.get(f"{ENVIRONMENT_PREFIX}DATA_DIR") or DEFAULT_DATA_DIR
        file = Path(str(chosen)) / FILE_NAME
        stored = _read_file(file, faults)
        names = [field.name for field in fields(cls)]
        faults += [
            f"{file}: {name!r} is no setting: expected one of {', '.join(names[1:])}"
            for name in stored
            if name not in names[1:]
        ]
        for name in names:
            variable = f"{ENVIRONMENT_PREFIX}{name.upper()}"
            flag = flags.get(name)
            if flag is not None:
                source, value = f"--{name.replace('_', '-')}", flag
            elif environment.get(variable):
                source, value = f"${variable}", environment[variable]
            elif name in stored and name != "data_dir":
                source, value = f"{file}: {name}", stored[name]
            else:
                continue
            try:
                values[name] = _PARSERS[name](value)
            except ValueError as exc:
                faults.append(f"{source}: {exc}")
        if not faults and values.get("oidc_issuer") and not (values.get("oidc_client_id") and values.get("oidc_roles")):
            faults.append("oidc_issuer: it needs oidc_client_id and oidc_roles too, else nobody could log in")
        if faults:
            raise InvalidFormat("\n".join(faults))
        return cls(**cast("dict[str, Any]", values))


def _read_file(path: Path, faults: list[str]) -> dict[str, object]:
    try:
        with path.open("rb") as file:
            return tomllib.load(file)
    except FileNotFoundError:
        return {}
    except OSError as exc:
        faults.append(f"{path}: it cannot be read: {exc.strerror}")
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        faults.append(f"{path}: it is not TOML: {exc}")
    return {}


def _parse_path(value: object) -> Path:
    return Path(os.path.expanduser(_parse_text(value)))  # noqa: PTH111  Path.expanduser raises for an unknown user


def _parse_text(value: object) -> str:
    text = str(value)
    if not isinstance(value, (str, Path)) or not text.strip() or not text.isprintable():
        raise ValueError(f"{value!r}: expected text")
    return text.strip()


def _parse_number(minimum: int, maximum: int) -> Callable[[object], int]:
    def parse(value: object) -> int:
        number = int(value) if isinstance(value, str) and value.isascii() and value.isdecimal() else value
        if not isinstance(number, int) or isinstance(number, bool) or not minimum <= number <= maximum:
            raise ValueError(f"{value!r}: expected a number from {minimum} to {maximum}")
        return number

    return parse


def _parse_size(value: object) -> int:
    text = str(value).strip()
    for unit, factor in _SIZE_UNITS.items():
        number = text.removesuffix(unit).strip()
        if number != text and number.isascii() and number.isdecimal():
            return _checked_size(int(number) * factor, value)
    if text.isascii() and text.isdecimal():
        return _checked_size(int(text), value)
    raise ValueError(f"{value!r}: expected bytes, or a number with KiB, MiB, GiB or TiB")


def _parse_speed(value: object) -> int:
    return 0 if str(value).strip() == "0" else _parse_size(value)


def _checked_size(size: int, value: object) -> int:
    if not 1 <= size < 1 << 62:
        raise ValueError(f"{value!r}: expected at least 1 byte, and less than 4 EiB")
    return size


def _parse_seconds(value: object) -> int:
    text = str(value).strip()
    factor = _TIME_UNITS.get(text[-1:])
    number = text if factor is None else text[:-1]
    seconds = (
        int(number) * (factor or 1)
        if number.isascii() and number.isdecimal() and len(number) < len("1000000000")
        else -1
    )
    if isinstance(value, bool) or not 0 <= seconds <= _MAX_SECONDS:
        raise ValueError(f"{value!r}: expected seconds, or a number with s, m, h, d or w; at most a year")
    return seconds


def _parse_choice(choices: tuple[str, ...]) -> Callable[[object], str]:
    def parse(value: object) -> str:
        if value not in choices:
            raise ValueError(f"{value!r}: expected one of {', '.join(choices)}")
        return str(value)

    return parse


def _parse_url(value: object) -> str:
    text = _parse_text(value).rstrip("/")
    parts = urlsplit(text)
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.query or parts.fragment or parts.username:
        raise ValueError(f"{value!r}: expected http:// or https:// and a host, for instance https://cache.example.org")
    if parts.path:
        raise ValueError(f"{value!r}: expected no path after the host: caches are directly below it")
    return text


def _parse_issuer(value: object) -> str:
    return parse_issuer(_parse_text(value))


def _parse_roles(value: object) -> tuple[str, ...]:
    items = value.split(";") if isinstance(value, str) else value
    if not isinstance(items, (list, tuple)):
        raise ValueError(f"{value!r}: expected a list of GROUP=PERMISSIONS:PATTERN")  # noqa: TRY004  a fault of a setting
    texts = [str(item).strip() for item in cast("list[object]", items) if str(item).strip()]
    for text in texts:
        parse_role(text)
    return tuple(texts)


def _parse_networks(value: object) -> tuple[str, ...]:
    items = value.replace(",", " ").split() if isinstance(value, str) else value
    if not isinstance(items, (list, tuple)):
        raise ValueError(f"{value!r}: expected a list of addresses or networks")  # noqa: TRY004  a fault of a setting
    networks: list[str] = []
    for item in cast("list[object]", items):
        try:
            networks.append(str(ipaddress.ip_network(str(item), strict=False)))
        except ValueError as exc:
            raise ValueError(f"{item!r}: expected an address or a network, for instance 10.0.0.0/8") from exc
    return tuple(networks)


_PARSERS: Final[dict[str, Callable[[object], object]]] = {
    "data_dir": _parse_path,
    "host": _parse_text,
    "port": _parse_number(0, _MAX_PORT),
    "public_url": _parse_url,
    "trusted_proxies": _parse_networks,
    "workers": _parse_number(1, _MAX_WORKERS),
    "log_level": _parse_choice(_LOG_LEVELS),
    "log_format": _parse_choice(_LOG_FORMATS),
    "max_nar_bytes": _parse_size,
    "zstd_level": _parse_number(1, 19),
    "collect_seconds": _parse_seconds,
    "keep_backups": _parse_number(0, _MAX_BACKUPS),
    "verify_speed": _parse_speed,
    "download_days": _parse_number(0, _MAX_DAYS),
    "requests_per_second": _parse_number(0, _MAX_RATE),
    "failed_logins_per_minute": _parse_number(0, _MAX_RATE),
    "oidc_issuer": _parse_issuer,
    "oidc_client_id": _parse_text,
    "oidc_client_secret_file": lambda value: str(_parse_path(value)),
    "oidc_scopes": _parse_text,
    "oidc_groups_claim": _parse_text,
    "oidc_roles": _parse_roles,
}

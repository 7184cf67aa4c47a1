"""A binary cache in a bucket of S3, or of what speaks its protocol, as ``nix copy --to s3://…`` fills it."""

from collections.abc import AsyncGenerator, Mapping
from typing import Final, Self
from urllib.parse import parse_qsl, unquote, urlsplit

import obstore
from obstore.exceptions import BaseError, PermissionDeniedError, UnauthenticatedError
from obstore.store import S3Store

from icehouse.client.nar_sources import PIECE_BYTES, parse_narinfo_names
from icehouse.errors import Denied, InvalidFormat, NotFound, Unavailable
from icehouse.nix.store_paths import HashPart

_DEFAULT_REGION: Final = "us-east-1"  # as Nix's
_PARAMETERS: Final = frozenset({"region", "endpoint", "scheme"})
_CREDENTIALS: Final = (
    "AWS_ACCESS_KEY_ID",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
)
_LISTED_AT_ONCE: Final = 1000
_RETRIES: Final = 2  # of each request; whoever reads a file begins anew besides
_MAX_MESSAGE: Final = 300


class S3Source:
    """A bucket, or what is below a prefix of one."""

    def __init__(self, store: S3Store, url: str) -> None:
        """Read from *store*."""
        self._store = store
        self._url: Final = url

    @classmethod
    def open(cls, text: str, environment: Mapping[str, str]) -> Self:
        """``s3://BUCKET[/PREFIX][?region=…&endpoint=…&scheme=…]`` as Nix reads it, with the environment's credentials.

        Those are ``$AWS_ACCESS_KEY_ID`` and what belongs to it, or those of a container or a web identity. Without any,
        requests are not signed, as public buckets want it; ``AWS_SKIP_SIGNATURE=false`` asks the machine's own role.

        Raises:
            InvalidFormat: it is malformed, or has parameters that are not known here.
        """
        parts = urlsplit(text)
        parameters = dict(parse_qsl(parts.query))
        unknown = sorted(parameters.keys() - _PARAMETERS)
        if unknown or not parts.netloc:
            known = ", ".join(sorted(_PARAMETERS))
            wrong = f"has the parameter {unknown[0]}" if unknown else "names no bucket"
            raise InvalidFormat(f"source {text!r} {wrong}: expected s3://BUCKET, and of parameters only {known}")
        config = {name.lower(): value for name, value in environment.items() if name.startswith("AWS_")}
        config.setdefault("aws_region", environment.get("AWS_DEFAULT_REGION") or _DEFAULT_REGION)
        if "region" in parameters:
            config["aws_region"] = parameters["region"]
        if not any(environment.get(name) for name in _CREDENTIALS):
            config.setdefault("aws_skip_signature", "true")
        scheme = parameters.get("scheme", "https")
        if "endpoint" in parameters:
            config["aws_endpoint"] = f"{scheme}://{parameters['endpoint']}"
        try:
            store = S3Store(
                parts.netloc,
                prefix=unquote(parts.path).strip("/") or None,
                config=config,  # pyright: ignore[reportArgumentType]  names of variables, which only the library knows all
                client_options={"allow_http": scheme == "http"},
                retry_config={"max_retries": _RETRIES},
            )
        except BaseError as exc:
            raise InvalidFormat(f"source {text!r}: {_text(exc)}") from exc
        return cls(store, f"s3://{parts.netloc}{parts.path.rstrip('/')}")

    @property
    def url(self) -> str:
        """``s3://``, the bucket, and the prefix."""
        return self._url

    async def read(self, place: str) -> AsyncGenerator[bytes]:
        """As the protocol of `NarSource` says."""
        segments = place.split("/")
        if "://" in place or not all(segments) or not {".", ".."}.isdisjoint(segments):
            raise InvalidFormat(f"{self.url}: a file {place!r} is named, which leads out of that cache")
        try:
            answer = await obstore.get_async(self._store, place)
            async for piece in answer.stream(min_chunk_size=PIECE_BYTES):
                yield bytes(piece)
        except FileNotFoundError as exc:
            raise NotFound(f"{self.url}/{place} is not there") from exc
        except (PermissionDeniedError, UnauthenticatedError) as exc:
            raise self._denied(exc) from exc
        except BaseError as exc:
            raise Unavailable(f"{self.url}/{place} cannot be read: {_text(exc)}") from exc

    async def list_hash_parts(self) -> list[HashPart]:
        """As the protocol of `NarSource` says."""
        found: list[HashPart] = []
        try:
            async for page in obstore.list(self._store, chunk_size=_LISTED_AT_ONCE):  # pyright: ignore[reportUnknownMemberType]  one of its overloads is of an optional library
                found += parse_narinfo_names([self._name(each["path"]) for each in page])
        except (PermissionDeniedError, UnauthenticatedError) as exc:
            raise self._denied(exc) from exc
        except BaseError as exc:
            if "403 Forbidden" in _text(exc):  # which the library tells by its text alone, of a list
                raise self._denied(exc) from exc
            raise Unavailable(f"{self.url} cannot be listed: {_text(exc)}") from exc
        return found

    def _name(self, path: str) -> str:
        """The name of a file of the cache itself; those below ``nar/`` and the like have none."""
        return "" if "/" in path else path

    def _denied(self, exc: BaseError) -> Denied:
        return Denied(f"{self.url} may not be read with the credentials of the environment ($AWS_…): {_text(exc)}")


def _text(exc: BaseError) -> str:
    """The first line of an error; the library shows its insides in the others."""
    return next((line for line in str(exc).splitlines() if line.strip()), type(exc).__name__)[:_MAX_MESSAGE]

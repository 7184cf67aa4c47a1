"""Identity tokens: the JSON web tokens in which an OpenID Connect issuer, such as a CI, says who a job is.

Source: RFC 7515, RFC 7517, RFC 7519; OpenID Connect Core 1.0, section 2.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

import msgspec
from joserfc import jwk, jws
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, OKPKey, RSAKey

from icehouse.errors import InvalidFormat
from icehouse.nix.excerpts import excerpt

MAX_ID_TOKEN_LENGTH: Final = 16 * 1024
"""GitHub's have some 2,000 letters."""

MAX_KEYS_BYTES: Final = 256 * 1024
"""Of a document of an issuer: its keys, or where they are."""

SKEW_SECONDS: Final = 60
"""By how much an issuer's clock may differ from ours."""

MAX_LIFETIME_SECONDS: Final = 24 * 3600
"""GitLab's tokens live as long as a job may run. What lives longer is no job's."""

ALGORITHMS: Final = frozenset(
    {"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "Ed25519", "EdDSA"}
)
"""Signatures by private keys only: neither `none`, nor the HMACs, for which an issuer's public key would do."""

_MAX_KEYS: Final = 100
_MAX_KEY_ID_LENGTH: Final = 256
_MAX_TOKEN_ID_LENGTH: Final = 512
_MAX_CLAIM_LENGTH: Final = 1024
_MIN_RSA_BITS: Final = 2048
_BITS_A_LETTER: Final = 6  # of base64url
_KEY_TYPES: Final = {"RS": "RSA", "PS": "RSA", "ES": "EC", "Ed": "OKP"}
_COMPACT: Final = re.compile(r"([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)")

Key = RSAKey | ECKey | OKPKey
IssuerKeys = Mapping[str, tuple[Key, ...]]
"""The public keys of an issuer, by their key ids."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class UnverifiedToken:
    """A token that anybody may have written. What it says decides nothing but which keys it is checked with."""

    text: str = field(repr=False)
    issuer: str
    key_id: str
    algorithm: str


@dataclass(frozen=True, slots=True)
class Identity:
    """What a token says that an issuer signed, and that is valid now."""

    issuer: str
    subject: str
    audiences: tuple[str, ...]
    expires_at: int
    use_key: bytes
    """The same for every copy of this token, and for no other token: what is kept to refuse a second use."""
    claims: Mapping[str, str]
    """Texts as they are, numbers in decimal, truths as `true` and `false`. What is of another kind, or long, is not."""


@dataclass(frozen=True, slots=True)
class LoginToken:
    """What a provider says of somebody who logs in."""

    subject: str
    claims: Mapping[str, Any] = field(repr=False)


@dataclass(frozen=True, slots=True)
class ProviderPlaces:
    """Where people log in."""

    authorization_endpoint: str
    token_endpoint: str
    takes_basic: bool
    """Whether a client's secret goes there as Basic; else it is in the form."""


class _Header(msgspec.Struct):
    alg: str
    kid: str
    typ: str | None = None
    crit: Any = None


class _Payload(msgspec.Struct):
    iss: str
    sub: str
    aud: str | list[str]
    exp: float
    iat: float
    nbf: float
    jti: str | None = None


class _LoginPayload(msgspec.Struct):
    iss: str
    sub: str
    aud: str | list[str]
    exp: float
    iat: float
    nbf: float = 0
    nonce: str | None = None
    azp: str | None = None


class _Issuer(msgspec.Struct):
    iss: str


class _KeySet(msgspec.Struct):
    keys: list[dict[str, Any]]


class _Registry(jws.JWSRegistry):
    """As the library's, but for the older name of Ed25519, which it warns of: its successor names the curve."""

    max_header_length = MAX_ID_TOKEN_LENGTH
    max_payload_length = MAX_ID_TOKEN_LENGTH
    max_signature_length = MAX_ID_TOKEN_LENGTH

    def get_alg(self, name: str) -> Any:  # noqa: ANN401  the library's type is private
        return super().get_alg("Ed25519" if name == "EdDSA" else name)


_REGISTRY: Final = _Registry(algorithms=ALGORITHMS, strict_check_header=False)


def parse_id_token(text: str) -> UnverifiedToken:
    """Read what is needed to find the keys for a token.

    Raises:
        InvalidFormat: it is too long, no signed token in the compact form, or of an algorithm that is not accepted.
    """
    if len(text) > MAX_ID_TOKEN_LENGTH:
        raise InvalidFormat(f"a token of {len(text)} letters; at most {MAX_ID_TOKEN_LENGTH} are read")
    match = _COMPACT.fullmatch(text)
    if match is None:
        raise InvalidFormat("no signed token: expected three parts in base64url, joined by dots")
    header = _decode(match[1], _Header, "header")
    if header.alg not in ALGORITHMS:
        raise InvalidFormat(f"algorithm {excerpt(header.alg)}: expected one of {', '.join(sorted(ALGORITHMS))}")
    if header.crit is not None:
        raise InvalidFormat("the header has `crit`, whose extensions are not known here")
    if header.typ is not None and header.typ.lower() != "jwt":
        raise InvalidFormat(f"a token of the type {excerpt(header.typ)}: expected JWT")
    if len(header.kid) > _MAX_KEY_ID_LENGTH:
        raise InvalidFormat(f"kid: {len(header.kid)} letters; at most {_MAX_KEY_ID_LENGTH} are read")
    return UnverifiedToken(text, _decode(match[2], _Issuer, "payload").iss, header.kid, header.alg)


def verify_id_token(token: UnverifiedToken, keys: IssuerKeys, *, now: int) -> Identity:
    """What *token* says, if one of the issuer's *keys* signed it and it is valid at *now*.

    Raises:
        InvalidFormat: it did not, or it is not, or a claim that every token needs is absent or malformed.
    """
    segment, signed = _check_signature(token, keys)
    payload = _decode(segment, _Payload, "payload")
    if payload.iss != token.issuer:
        raise InvalidFormat("the payload names two issuers")
    expires_at = _check_times(payload, now)
    if not 0 < payload.exp - payload.iat <= MAX_LIFETIME_SECONDS:
        raise InvalidFormat(
            f"valid for {payload.exp - payload.iat:.0f} seconds; expected more than 0, and at most "
            f"{MAX_LIFETIME_SECONDS}"
        )
    audiences = (payload.aud,) if isinstance(payload.aud, str) else tuple(payload.aud)
    if payload.jti is not None and not 0 < len(payload.jti) <= _MAX_TOKEN_ID_LENGTH:
        raise InvalidFormat(f"jti: expected 1 to {_MAX_TOKEN_ID_LENGTH} letters")
    return Identity(
        issuer=payload.iss,
        subject=payload.sub,
        audiences=audiences,
        expires_at=expires_at,
        use_key=_use_key(payload, signed),
        claims=_scalars(_decode(segment, dict[str, Any], "payload")),
    )


def verify_login_token(
    token: UnverifiedToken, keys: IssuerKeys, *, issuer: str, client_id: str, nonce: str, now: int
) -> LoginToken:
    """What the token of a person's login says, if it is the issuer's, for us, and of the login that had *nonce*.

    Raises:
        InvalidFormat: it is not, or it is not valid at *now*, or a claim that every token needs is absent or malformed.

    Source: OpenID Connect Core 1.0, section 3.1.3.7.
    """
    segment, _ = _check_signature(token, keys)
    payload = _decode(segment, _LoginPayload, "payload")
    if payload.iss != token.issuer or payload.iss != issuer:
        raise InvalidFormat(f"a token of {excerpt(payload.iss)}: expected one of {issuer}")
    audiences = (payload.aud,) if isinstance(payload.aud, str) else tuple(payload.aud)
    if (
        client_id not in audiences
        or (payload.azp or client_id) != client_id
        or (len(audiences) > 1 and not payload.azp)
    ):
        raise InvalidFormat(f"a token for {excerpt(str(payload.aud))}: expected one for {client_id}")
    if payload.nonce is None or not hmac.compare_digest(payload.nonce.encode(), nonce.encode()):
        raise InvalidFormat("a token of another login")
    _check_times(payload, now)
    return LoginToken(payload.sub, _decode(segment, dict[str, Any], "payload"))


def parse_provider(data: bytes, issuer: str) -> ProviderPlaces:
    """Where people log in at *issuer*, from its discovery document.

    Raises:
        InvalidFormat: it is malformed, or that of another issuer, or lacks something.
    """
    document = _parse_json(data, dict[str, Any], "the discovery document")
    if document.get("issuer") != issuer:
        raise InvalidFormat(f"the discovery document of {issuer} is that of {excerpt(str(document.get('issuer')))}")
    places = [document.get(name) for name in ("authorization_endpoint", "token_endpoint")]
    if not all(isinstance(place, str) for place in places):
        raise InvalidFormat(f"the discovery document of {issuer} does not say where people log in")
    methods: object = document.get("token_endpoint_auth_methods_supported", ["client_secret_basic"])
    return ProviderPlaces(
        str(places[0]), str(places[1]), isinstance(methods, list) and "client_secret_basic" in methods
    )


def parse_token_answer(data: bytes) -> str:
    """The identity token in what a provider gives for a code.

    Raises:
        InvalidFormat: there is none.
    """
    answer = _parse_json(data, dict[str, Any], "the provider's answer")
    token = answer.get("id_token")
    if not isinstance(token, str):
        raise InvalidFormat("the provider's answer has no id_token")
    return token


def _check_signature(token: UnverifiedToken, keys: IssuerKeys) -> tuple[str, str]:
    """The payload's segment, and all that was signed.

    Raises:
        InvalidFormat: none of *keys* signed it.
    """
    key_type = _KEY_TYPES[token.algorithm[:2]]
    candidates = [key for key in keys.get(token.key_id, ()) if key.key_type == key_type]
    if not candidates:
        raise InvalidFormat(f"the issuer has no key {excerpt(token.key_id)} for {token.algorithm}")
    if not any(_has_signed(key, token) for key in candidates):
        raise InvalidFormat(f"the signature is not by the key {excerpt(token.key_id)}")
    signed, _, _ = token.text.rpartition(".")
    return signed.partition(".")[2], signed


def parse_keys(data: bytes) -> IssuerKeys:
    """The keys of an issuer that can verify signatures, from its JSON web key set. Others are left out.

    Raises:
        InvalidFormat: *data* is no key set, or too large.
    """
    found: dict[str, tuple[Key, ...]] = {}
    for each in _parse_json(data, _KeySet, "the key set").keys[:_MAX_KEYS]:
        key_id = each.get("kid")
        modulus = each.get("n")
        is_weak = isinstance(modulus, str) and len(modulus) * _BITS_A_LETTER < _MIN_RSA_BITS
        if not isinstance(key_id, str) or each.get("use", "sig") != "sig" or is_weak:
            continue
        # Its public members alone: an issuer that shows a private key has other troubles, and we need none of it.
        public = {name: value for name, value in each.items() if name in {"kty", "kid", "n", "e", "crv", "x", "y"}}
        try:
            key = jwk.import_key(public)
        except (JoseError, ValueError, TypeError, KeyError):
            continue
        if isinstance(key, (RSAKey, ECKey, OKPKey)):
            found[key_id] = (*found.get(key_id, ()), key)
    return found


def parse_discovery(data: bytes, issuer: str) -> str:
    """Where the keys of *issuer* are, from its discovery document.

    Raises:
        InvalidFormat: it is malformed, or that of another issuer.

    Source: OpenID Connect Discovery 1.0, section 4.3.
    """
    document = _parse_json(data, dict[str, Any], "the discovery document")
    if document.get("issuer") != issuer:
        raise InvalidFormat(f"the discovery document of {issuer} is that of {excerpt(str(document.get('issuer')))}")
    url = document.get("jwks_uri")
    if not isinstance(url, str):
        raise InvalidFormat(f"the discovery document of {issuer} does not say where its keys are (jwks_uri)")
    return url


def _has_signed(key: Key, token: UnverifiedToken) -> bool:
    try:
        jws.deserialize_compact(token.text, key, registry=_REGISTRY)
    except (JoseError, ValueError, TypeError):
        return False
    return True


def _check_times(payload: _Payload | _LoginPayload, now: int) -> int:
    """When the token expires, the issuer's clock being ahead as far as it may."""
    for name, value in (("exp", payload.exp), ("iat", payload.iat), ("nbf", payload.nbf)):
        if not 0 <= value < 2**53:  # refuses what is no number, too
            raise InvalidFormat(f"{name} {value}: expected seconds since the epoch")
    if now >= payload.exp + SKEW_SECONDS:
        raise InvalidFormat(f"expired {now - payload.exp:.0f} seconds ago")
    if max(payload.iat, payload.nbf) > now + SKEW_SECONDS:
        raise InvalidFormat(f"not valid for another {max(payload.iat, payload.nbf) - now:.0f} seconds")
    return int(payload.exp)


def _use_key(payload: _Payload, signed: str) -> bytes:
    # Of a token without a name, what was signed; not the signature, which can have several forms for the same.
    text = f"jti\0{payload.iss}\0{payload.jti}" if payload.jti is not None else f"text\0{signed}"
    return hashlib.sha256(text.encode()).digest()


def _scalars(claims: Mapping[str, object]) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, value in claims.items():
        match value:
            case bool():
                found[name] = "true" if value else "false"
            case int():
                found[name] = str(value)
            case str() if len(value) <= _MAX_CLAIM_LENGTH:
                found[name] = value
            case _:
                pass
    return found


def _decode(segment: str, kind: type[T], what: str) -> T:
    try:
        data = base64.urlsafe_b64decode(segment + "=" * (-len(segment) % 4))
    except (binascii.Error, ValueError) as exc:
        raise InvalidFormat(f"the {what} is not base64url") from exc
    return _parse_json(data, kind, f"the {what}")


def _parse_json(data: bytes, kind: type[T], what: str) -> T:
    if len(data) > MAX_KEYS_BYTES:
        raise InvalidFormat(f"{what} has more than {MAX_KEYS_BYTES} bytes")
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise InvalidFormat(f"{what} is malformed: {exc}") from exc

"""Identity tokens: only what an issuer's key signed counts, only while it is valid, and every forgery is refused."""

import hmac
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from joserfc.jwk import ECKey, OKPKey, RSAKey

from icehouse.errors import InvalidFormat
from icehouse.rules.id_tokens import (
    MAX_ID_TOKEN_LENGTH,
    Identity,
    IssuerKeys,
    parse_discovery,
    parse_id_token,
    parse_keys,
    verify_id_token,
)
from icehouse.rules.provenance import describe_job, job_text
from tests.services.local_issuer import RSA_KEY, SigningKey, encode, public_of, sign

NOW = 1_700_000_000
ISSUER = "https://ci.example.org"
EC_KEY = ECKey.generate_key("P-256", {"kid": "ec"})
ED_KEY = OKPKey.generate_key("Ed25519", {"kid": "ed"})


def keys_of(*keys: SigningKey) -> IssuerKeys:
    return parse_keys(json.dumps({"keys": [public_of(key) for key in keys]}).encode())


KEYS = keys_of(RSA_KEY, EC_KEY, ED_KEY)


def claims(**changes: object) -> dict[str, object]:
    usual: dict[str, object] = {"iss": ISSUER, "sub": "me", "aud": "us", "jti": "1"}
    usual |= {"iat": NOW, "nbf": NOW, "exp": NOW + 300}
    return {name: value for name, value in (usual | changes).items() if value is not None}


def verify(token: str, keys: IssuerKeys = KEYS, now: int = NOW) -> Identity:
    return verify_id_token(parse_id_token(token), keys, now=now)


@pytest.mark.parametrize(
    ("key", "algorithm"),
    [(RSA_KEY, name) for name in ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")]
    + [(EC_KEY, "ES256"), (ED_KEY, "Ed25519"), (ED_KEY, "EdDSA")],
)
def test_token_that_the_issuer_signed_is_read(key: SigningKey, algorithm: str) -> None:
    identity = verify(sign(claims(aud=["them", "us"], yes=True, run=7, deep={"a": 1}), key, algorithm))
    assert (identity.issuer, identity.subject, identity.audiences) == (ISSUER, "me", ("them", "us"))
    assert (identity.claims["yes"], identity.claims["run"]) == ("true", "7")
    assert "deep" not in identity.claims


def test_alg_none_is_refused() -> None:
    for algorithm in ("none", "None", "nOnE", ""):
        header = encode({"alg": algorithm, "kid": "rsa"})
        for signature in ("", encode(b"x")):
            with pytest.raises(InvalidFormat):
                parse_id_token(f"{header}.{encode(claims())}.{signature}")


@pytest.mark.parametrize("algorithm", ["HS256", "HS384", "HS512"])
def test_hmac_with_the_public_key_is_refused(algorithm: str) -> None:
    published = json.dumps(public_of(RSA_KEY)).encode()
    for secret in (RSA_KEY.as_pem(private=False), RSA_KEY.as_der(private=False), published):
        signed = f"{encode({'alg': algorithm, 'kid': 'rsa'})}.{encode(claims())}"
        forged = hmac.new(secret, signed.encode(), f"sha{algorithm[2:]}").digest()
        with pytest.raises(InvalidFormat, match="algorithm"):
            verify(f"{signed}.{encode(forged)}")


def test_key_of_another_than_the_issuer_is_refused() -> None:
    others = RSAKey.generate_key(2048, {"kid": "rsa"})
    with pytest.raises(InvalidFormat, match="signature"):
        verify(sign(claims(), others))
    with pytest.raises(InvalidFormat, match="no key"):
        verify(sign(claims(), OKPKey.generate_key("Ed25519", {"kid": "new"}), "Ed25519"))


def test_key_that_comes_in_the_token_itself_is_not_looked_at() -> None:
    own = RSAKey.generate_key(2048, {"kid": "rsa"})
    for header in (
        {"jwk": public_of(own)},
        {"jku": "https://evil.example.org/keys"},
        {"x5u": "https://evil.example.org"},
    ):
        with pytest.raises(InvalidFormat, match="signature"):
            verify(sign(claims(), own, "RS256", **header))


@pytest.mark.parametrize(
    ("key", "algorithm", "kid"), [(EC_KEY, "ES256", "rsa"), (RSA_KEY, "RS256", "ec"), (ED_KEY, "EdDSA", "ec")]
)
def test_swapped_keys_are_refused(key: SigningKey, algorithm: str, kid: str) -> None:
    with pytest.raises(InvalidFormat):
        verify(sign(claims(), key, algorithm, kid=kid))


def test_changed_token_is_refused() -> None:
    header, payload, signature = sign(claims()).split(".")
    other = encode(claims(sub="you"))
    for text in (f"{header}.{other}.{signature}", f"{encode({'alg': 'RS512', 'kid': 'rsa'})}.{payload}.{signature}"):
        with pytest.raises(InvalidFormat, match="signature"):
            verify(text)


@pytest.mark.parametrize(
    "changes",
    [
        {"exp": NOW - 60},
        {"iat": NOW + 61},
        {"nbf": NOW + 61},
        {"exp": NOW + 25 * 3600},
        {"exp": NOW},
        {"exp": 1e300},
        {"exp": -1},
        {"exp": str(NOW + 300)},
        {"exp": None},
        {"iat": None},
        {"nbf": None},
        {"iat": True},
        {"sub": None},
        {"aud": None},
        {"aud": 5},
        {"iss": None},
        {"jti": ""},
        {"jti": "x" * 513},
        {"jti": 5},
    ],
    ids=str,
)
def test_token_out_of_its_time_or_without_a_claim_that_each_needs_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(InvalidFormat):
        verify(sign(claims(**changes)))


def test_clocks_may_differ_by_a_minute() -> None:
    token = sign(claims())
    assert verify(token, now=NOW - 60).subject == "me"
    assert verify(token, now=NOW + 359).subject == "me"
    for now in (NOW - 61, NOW + 360):
        with pytest.raises(InvalidFormat):
            verify(token, now=now)


@pytest.mark.parametrize("header", [{"crit": ["exp"]}, {"crit": []}, {"typ": "at+jwt"}, {"kid": "x" * 257}], ids=str)
def test_header_that_is_not_understood_is_refused(header: dict[str, object]) -> None:
    text = f"{encode({'alg': 'RS256', 'kid': 'rsa', **header})}.{encode(claims())}.{encode(b'x')}"
    with pytest.raises(InvalidFormat):
        parse_id_token(text)


def test_token_without_a_key_id_is_refused() -> None:
    with pytest.raises(InvalidFormat, match="kid"):
        parse_id_token(f"{encode({'alg': 'RS256'})}.{encode(claims())}.{encode(b'x')}")


def test_huge_token_is_refused_before_it_is_read() -> None:
    with pytest.raises(InvalidFormat, match="at most"):
        parse_id_token("a" * MAX_ID_TOKEN_LENGTH + ".b.c")
    deep = encode(b"[" * 8000)
    with pytest.raises(InvalidFormat):
        parse_id_token(f"{deep}.{encode(claims())}.x")


@given(st.text(max_size=60) | st.binary(max_size=60).map(lambda data: f"{encode(data)}.{encode(data)}.{encode(data)}"))
def test_whatever_is_no_token_is_refused(text: str) -> None:
    with pytest.raises(InvalidFormat):
        parse_id_token(text)


def test_use_key_is_the_tokens_own_and_does_not_depend_on_the_signature() -> None:
    first, again = verify(sign(claims(jti=None), EC_KEY, "ES256")), verify(sign(claims(jti=None), EC_KEY, "ES256"))
    assert first.use_key == again.use_key  # ECDSA signs the same in another way each time
    assert first.use_key != verify(sign(claims(jti=None, x=1), EC_KEY, "ES256")).use_key
    assert verify(sign(claims(jti="2"))).use_key != verify(sign(claims())).use_key
    assert verify(sign(claims(x=1))).use_key == verify(sign(claims())).use_key


def test_keys_that_cannot_verify_are_left_out() -> None:
    weak = public_of(RSA_KEY) | {"kid": "weak", "n": encode(b"\xff" * 128)}
    encrypting = public_of(RSA_KEY) | {"use": "enc", "kid": "enc"}
    secret = {"kty": "oct", "k": encode(b"x" * 32), "kid": "oct"}
    named = [weak, encrypting, secret, {"kty": "new", "kid": "new"}, {"kty": "RSA", "kid": "bad", "n": 1}]
    nameless = {name: value for name, value in public_of(RSA_KEY).items() if name != "kid"}
    data = json.dumps({"keys": [*named, nameless, public_of(EC_KEY)]}).encode()
    assert list(parse_keys(data)) == ["ec"]


@pytest.mark.parametrize("data", [b"", b"{}", b'{"keys": 1}', b"[" * 100_000, b"\xff", b" " * 300_000])
def test_what_is_no_key_set_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidFormat):
        parse_keys(data)


def test_discovery_of_another_issuer_is_refused() -> None:
    document = {"issuer": ISSUER, "jwks_uri": f"{ISSUER}/keys"}
    assert parse_discovery(json.dumps(document).encode(), ISSUER) == f"{ISSUER}/keys"
    for wrong in (document | {"issuer": f"{ISSUER}/"}, {"issuer": ISSUER}, document | {"jwks_uri": 5}, {}):
        with pytest.raises(InvalidFormat):
            parse_discovery(json.dumps(wrong).encode(), ISSUER)


def identity(**claims: str) -> Identity:
    issuer = claims.pop("iss", ISSUER)
    return Identity(issuer, claims.pop("sub", "me"), ("us",), NOW, b"", claims)


def test_job_of_github_is_described_with_its_run() -> None:
    github = "https://token.actions.githubusercontent.com"
    job = describe_job(identity(iss=github, repository="org/app", run_id="7", sha="ab", ref="refs/heads/main"))
    assert (job.repository, job.commit, job.run_url) == ("org/app", "ab", "https://github.com/org/app/actions/runs/7")
    assert job_text(job) == "org/app at refs/heads/main, run 7"
    enterprise = describe_job(identity(iss="https://git.corp/_services/token", repository="org/app", run_id="7"))
    assert enterprise.run_url == "https://git.corp/org/app/actions/runs/7"


def test_job_of_gitlab_is_described_with_its_run() -> None:
    job = describe_job(identity(iss="https://gitlab.com", project_path="group/sub/app", job_id="7", ref="main"))
    assert job.run_url == "https://gitlab.com/group/sub/app/-/jobs/7"


@pytest.mark.parametrize("repository", ["app", "../evil/x?y", "org/app\n", "org/a b", "//evil.example.org/x"])
def test_claim_that_is_no_repository_makes_no_link(repository: str) -> None:
    assert describe_job(identity(repository=repository, run_id="7")).run_url is None


def test_job_of_another_issuer_is_described_by_its_subject() -> None:
    assert job_text(describe_job(identity(sub="machine-1"))) == f"machine-1 of {ISSUER}"

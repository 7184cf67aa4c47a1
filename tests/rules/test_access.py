import base64
import zlib
from fnmatch import fnmatchcase

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from icehouse.errors import Denied, IcehouseError, InvalidFormat, NotFound, Unauthenticated
from icehouse.rules.access import (
    MAX_PATTERN_LENGTH,
    RESERVED_NAMES,
    Grant,
    Permission,
    allows,
    check_access,
    check_may_administer_tokens,
    check_may_create_cache,
    check_may_create_token,
    covers,
    hash_token,
    make_token,
    matches,
    may_see_token,
    no_such_cache,
    parse_authorization,
    parse_cache_name,
    parse_cache_pattern,
    parse_token,
)

TOKEN = make_token(bytes(range(32)))
NAMES = st.text("ab-", max_size=8)
PATTERNS = st.text("ab-*", min_size=1, max_size=8)


def grant(*permissions: Permission, pattern: str = "*", expires_at: int | None = None) -> Grant:
    return Grant(1, "a test", frozenset(permissions), pattern, expires_at)


@pytest.mark.parametrize("name", ["a", "0", "main", "a-b", "a--b", "9lives", "x" * 50, "apis"])
def test_a_cache_name_is_read(name: str) -> None:
    assert parse_cache_name(name) == name


@pytest.mark.parametrize(
    "name", ["", "-", "-a", "a-", "A", "a_b", "a.b", "a/b", "ä", "x" * 51, "a\n", "a b", *sorted(RESERVED_NAMES)]
)
def test_a_wrong_or_reserved_cache_name_is_refused(name: str) -> None:
    with pytest.raises(InvalidFormat):
        parse_cache_name(name)


@pytest.mark.parametrize("name", ["api", "ui", "static", "metrics", "health", "docs"])
def test_first_segments_of_the_design_are_reserved(name: str) -> None:
    assert name in RESERVED_NAMES


@pytest.mark.parametrize("pattern", ["", "A", "a?", "[a]", "a b", "*" * (MAX_PATTERN_LENGTH + 1), "*\n"])
def test_a_wrong_cache_pattern_is_refused(pattern: str) -> None:
    with pytest.raises(InvalidFormat):
        parse_cache_pattern(pattern)


@given(PATTERNS, NAMES)
@example("a*a", "a")
@example("*a*", "a")
@example("a*b*a", "aba")
def test_patterns_match_as_globs_do(pattern: str, name: str) -> None:
    assert matches(parse_cache_pattern(pattern), name) == fnmatchcase(name, pattern)


def test_a_hostile_pattern_is_quick() -> None:
    assert not matches("*a" * 50, "a" * 49 + "b")


@given(PATTERNS, st.lists(PATTERNS, min_size=1, max_size=4), st.lists(NAMES, min_size=1, max_size=8))
def test_what_a_star_is_replaced_by_makes_a_pattern_narrower(
    pattern: str, patterns: list[str], fillings: list[str]
) -> None:
    narrower = fill(pattern, patterns)
    assert covers(pattern, narrower)
    name = fill(narrower, fillings)
    assert matches(narrower, name)
    assert matches(pattern, name)


@given(PATTERNS, PATTERNS)
def test_a_pattern_that_covers_another_matches_its_names(pattern: str, narrower: str) -> None:
    # A letter that the wider pattern cannot have shows what only its stars may take.
    assert covers(pattern, narrower) == matches(pattern, fill(narrower, ["z"]))


def fill(pattern: str, fillings: list[str]) -> str:
    return "".join(fillings[index % len(fillings)] if letter == "*" else letter for index, letter in enumerate(pattern))


@pytest.mark.parametrize(
    ("pattern", "narrower", "expected"),
    [
        ("*", "*", True),
        ("*", "main", True),
        ("*", "team-*", True),
        ("team-*", "team-*", True),
        ("team-*", "team-a*b", True),
        ("team-*", "team-", True),
        ("*-ci", "team-*-ci", True),
        ("main", "main", True),
        ("main", "*", False),
        ("team-*", "*", False),
        ("team-*", "team*", False),
        ("team-*", "other", False),
        ("a*b*c", "a*c", False),
    ],
)
def test_which_pattern_covers_which(pattern: str, narrower: str, *, expected: bool) -> None:
    assert covers(pattern, narrower) is expected


@pytest.mark.parametrize(
    ("held", "wanted", "expected"),
    [
        *((Permission.ADMIN, permission, True) for permission in Permission),
        *((permission, Permission.PULL, True) for permission in Permission if permission != Permission.ADMIN),
        (Permission.PULL, Permission.PUSH, False),
        (Permission.PUSH, Permission.PIN, False),
        (Permission.PUSH, Permission.DELETE, False),
        (Permission.CONFIGURE, Permission.ADMIN, False),
        (Permission.CONFIGURE, Permission.PUSH, False),
    ],
)
def test_which_permission_holds_which(held: Permission, wanted: Permission, *, expected: bool) -> None:
    assert allows(grant(held), wanted, "main") is expected


def test_permissions_end_at_the_pattern() -> None:
    everything = grant(*Permission, pattern="team-*")
    assert allows(everything, Permission.ADMIN, "team-a")
    assert not allows(everything, Permission.PULL, "main")
    assert not allows(grant(), Permission.PULL, "main")
    assert not allows(None, Permission.PULL, "main")


NONE, INVALID = "no credentials", "invalid credentials"
PULLER, PUSHER, ELSEWHERE = grant(Permission.PULL), grant(Permission.PUSH), grant(*Permission, pattern="other")


@pytest.mark.parametrize(
    ("is_public", "caller", "permission", "expected"),
    [
        # Anyone reads a public cache, whatever their netrc sends along.
        (True, NONE, Permission.PULL, None),
        (True, INVALID, Permission.PULL, None),
        (True, ELSEWHERE, Permission.PULL, None),
        (True, PULLER, Permission.PULL, None),
        # Changing it needs the permission, and there is nothing to conceal.
        (True, NONE, Permission.PUSH, Unauthenticated),
        (True, INVALID, Permission.PUSH, Unauthenticated),
        (True, ELSEWHERE, Permission.PUSH, Denied),
        (True, PULLER, Permission.PUSH, Denied),
        (True, PUSHER, Permission.PUSH, None),
        # A private cache shows itself only to those who may pull from it.
        (False, NONE, Permission.PULL, Unauthenticated),
        (False, INVALID, Permission.PULL, Unauthenticated),
        (False, ELSEWHERE, Permission.PULL, NotFound),
        (False, PULLER, Permission.PULL, None),
        (False, PUSHER, Permission.PULL, None),
        (False, NONE, Permission.PUSH, Unauthenticated),
        (False, INVALID, Permission.PUSH, Unauthenticated),
        (False, ELSEWHERE, Permission.PUSH, NotFound),
        (False, PULLER, Permission.PUSH, Denied),
        (False, PUSHER, Permission.PUSH, None),
        # An absent one looks like a private one.
        (None, NONE, Permission.PULL, Unauthenticated),
        (None, INVALID, Permission.PULL, Unauthenticated),
        (None, ELSEWHERE, Permission.PULL, NotFound),
        (None, PULLER, Permission.PULL, NotFound),
        (None, NONE, Permission.PUSH, Unauthenticated),
        (None, INVALID, Permission.PUSH, Unauthenticated),
        (None, ELSEWHERE, Permission.PUSH, NotFound),
        (None, PUSHER, Permission.PUSH, NotFound),
    ],
)
def test_the_table_of_decisions(
    *, is_public: bool | None, caller: Grant | str, permission: Permission, expected: type[IcehouseError] | None
) -> None:
    assert decide(caller, permission, is_public=is_public)[0] is expected


@pytest.mark.parametrize("caller", [NONE, INVALID, ELSEWHERE])
@pytest.mark.parametrize("permission", list(Permission))
def test_a_private_and_an_absent_cache_give_the_same_words(caller: Grant | str, permission: Permission) -> None:
    assert decide(caller, permission, is_public=False) == decide(caller, permission, is_public=None)


def decide(
    caller: Grant | str, permission: Permission, *, is_public: bool | None
) -> tuple[type[IcehouseError] | None, str]:
    try:
        check_access(
            caller if isinstance(caller, Grant) else None,
            permission,
            "main",
            is_public=is_public,
            has_invalid_credentials=caller == INVALID,
        )
    except IcehouseError as exc:
        return type(exc), str(exc)
    return None, ""


def test_a_hostile_cache_name_is_quoted_short() -> None:
    assert len(str(no_such_cache("\n" * 10_000))) < 500


def test_creating_a_cache_needs_admin_on_its_name() -> None:
    check_may_create_cache(grant(Permission.ADMIN, pattern="team-*"), "team-a")
    with pytest.raises(Denied):
        check_may_create_cache(grant(Permission.ADMIN, pattern="team-*"), "main")
    with pytest.raises(Denied):
        check_may_create_cache(grant(Permission.CONFIGURE), "main")
    with pytest.raises(Unauthenticated):
        check_may_create_cache(None, "main")


def test_only_administrators_make_tokens() -> None:
    assert check_may_administer_tokens(grant(Permission.ADMIN)) == grant(Permission.ADMIN)
    with pytest.raises(Denied):
        check_may_administer_tokens(grant(Permission.PUSH, Permission.CONFIGURE))
    with pytest.raises(Unauthenticated):
        check_may_administer_tokens(None)


@pytest.mark.parametrize(
    ("creator", "pattern", "expires_at"),
    [
        (grant(Permission.ADMIN, pattern="team-*"), "*", None),
        (grant(Permission.ADMIN, pattern="team-*"), "team*", None),
        (grant(Permission.ADMIN, expires_at=100), "*", None),
        (grant(Permission.ADMIN, expires_at=100), "*", 101),
        (grant(Permission.PUSH), "main", 1),
    ],
    ids=["everywhere", "further", "for ever", "longer", "not an administrator"],
)
def test_a_token_does_not_create_a_stronger_one(creator: Grant, pattern: str, expires_at: int | None) -> None:
    with pytest.raises(Denied):
        check_may_create_token(creator, pattern, expires_at=expires_at)


def test_a_token_creates_one_that_is_no_stronger() -> None:
    check_may_create_token(grant(Permission.ADMIN, pattern="team-*"), "team-*", expires_at=None)
    check_may_create_token(grant(Permission.ADMIN, expires_at=100), "main", expires_at=100)


def test_an_administrator_sees_tokens_that_reach_no_further_and_their_own() -> None:
    team = grant(Permission.ADMIN, pattern="team-*")
    assert may_see_token(team, Grant(2, "", frozenset(), "team-a"))
    assert not may_see_token(team, Grant(2, "", frozenset(), "*"))
    assert may_see_token(grant(pattern=""), grant(pattern="*"))


@given(st.binary(min_size=32, max_size=32))
@example(bytes(32))
@example(b"\xff" * 32)
def test_a_token_is_read_back(random_bytes: bytes) -> None:
    token = make_token(random_bytes)
    assert len(token) == 4 + 43 + 6
    assert parse_token(token) == token


def test_the_form_of_a_token_is_fixed() -> None:
    # 43 digits of 62, highest first, and six of the CRC-32 of these 43 letters.
    assert make_token(bytes(32)) == "ice_" + "0" * 43 + checksum("0" * 43)
    assert make_token(bytes(31) + b"\x3e").startswith("ice_" + "0" * 41 + "10")


def checksum(letters: str) -> str:
    digits = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
    number = zlib.crc32(letters.encode())
    return "".join(digits[number // 62**place % 62] for place in reversed(range(6)))


@pytest.mark.parametrize("place", [*range(len(TOKEN))])
def test_a_token_with_one_letter_changed_is_refused(place: int) -> None:
    changed = TOKEN[:place] + ("x" if TOKEN[place] != "x" else "y") + TOKEN[place + 1 :]
    with pytest.raises(InvalidFormat) as caught:
        parse_token(changed)
    assert changed[4:] not in str(caught.value)


@pytest.mark.parametrize("text", ["", "ice_", TOKEN[:-1], TOKEN + "0", TOKEN + "\n", " " + TOKEN, TOKEN[:4] + "é" * 49])
def test_what_is_no_token_is_refused(text: str) -> None:
    with pytest.raises(InvalidFormat):
        parse_token(text)


def test_tokens_are_kept_as_sha256() -> None:
    assert len(hash_token(TOKEN)) == 32
    assert hash_token(TOKEN) != hash_token(make_token(bytes(32)))


def basic(text: str | bytes) -> str:
    return "Basic " + base64.b64encode(text if isinstance(text, bytes) else text.encode()).decode()


@pytest.mark.parametrize(
    "header",
    [f"Bearer {TOKEN}", f"bearer   {TOKEN} ", basic(f"anyone:{TOKEN}"), basic(f":{TOKEN}"), basic(f"é:{TOKEN}")],
    ids=["Bearer", "small letters", "Basic", "no user name", "unicode user name"],
)
def test_a_token_is_found_in_the_header(header: str) -> None:
    assert parse_authorization(header) == TOKEN


def test_no_header_is_no_credentials() -> None:
    assert parse_authorization(None) is None


@pytest.mark.parametrize(
    "header",
    [
        "",
        "Bearer",
        "Bearer ",
        TOKEN,
        f"Digest {TOKEN}",
        "Bearer " + TOKEN[:-1],
        "Basic",
        "Basic !!!",
        "Basic é",
        basic(TOKEN),
        basic(f"{TOKEN}:"),
        basic(b"a:\xff\xfe"),
        "Bearer " + "x" * 100_000,
    ],
)
def test_a_header_without_a_token_is_refused_without_being_quoted(header: str) -> None:
    with pytest.raises(Unauthenticated) as caught:
        parse_authorization(header)
    assert len(str(caught.value)) < 200
    assert "ice_0" not in str(caught.value)

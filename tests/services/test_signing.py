from collections.abc import Iterator
from pathlib import Path

import pytest

from icehouse.db.caches import PUBLIC_DOMAIN_ID, delete_cache, insert_cache
from icehouse.db.engine import Database
from icehouse.db.keys import insert_key, set_sealed_key
from icehouse.db.migrate import prepare_database
from icehouse.errors import Corrupt, InvalidFormat
from icehouse.nix.signing import SecretKey
from icehouse.nix.store_paths import NIX_STORE
from icehouse.rules.key_places import MAX_PLACE_BYTES, KeyCommand, KeyFile, KeyPlace
from icehouse.services.signing import Sealer, Signed, Signer, how_kept

KEY = SecretKey.generate("main.example.org-1", b"s" * 32)
OTHER = SecretKey.generate("other.example.org-1", b"o" * 32)
NONCE = b"n" * 12
SEALER = Sealer(b"k" * 32)


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    prepare_database(tmp_path / "icehouse.db")
    database = Database.open(tmp_path / "icehouse.db")
    yield database
    database.close()


@pytest.fixture
def cache_id(database: Database) -> int:
    return database.write_now(
        lambda connection: insert_cache(
            connection,
            name="main",
            domain_id=PUBLIC_DOMAIN_ID,
            is_public=True,
            store_dir=NIX_STORE,
            priority=41,
            want_mass_query=True,
            now=0,
        )
    ).id


def add_key(database: Database, cache_id: int, key: SecretKey) -> None:
    sealed = SEALER.seal(key, key.key_name, NONCE)
    database.write_now(lambda connection: insert_key(connection, cache_id, key.public_key, sealed, now=0))


def test_a_sealed_key_is_opened_and_shows_nothing() -> None:
    sealed = SEALER.seal(KEY, KEY.key_name, NONCE)
    assert SEALER.unseal(sealed, KEY.key_name) == KEY
    assert sealed[:13] == b"\x01" + NONCE
    assert KEY.seed not in sealed
    assert KEY.render().encode()[-40:] not in sealed


def test_a_key_sealed_with_another_secret_is_not_opened() -> None:
    with pytest.raises(Corrupt, match="cannot be decrypted with the secret"):
        Sealer(b"x" * 32).unseal(SEALER.seal(KEY, KEY.key_name, NONCE), KEY.key_name)


def test_a_key_moved_to_another_name_is_not_opened() -> None:
    with pytest.raises(Corrupt):
        SEALER.unseal(SEALER.seal(KEY, KEY.key_name, NONCE), OTHER.key_name)


@pytest.mark.parametrize("place", [0, 1, 13, 50, -1])
def test_a_changed_byte_is_noticed(place: int) -> None:
    sealed = bytearray(SEALER.seal(KEY, KEY.key_name, NONCE))
    sealed[place] ^= 1
    with pytest.raises(Corrupt):
        SEALER.unseal(bytes(sealed), KEY.key_name)


@pytest.mark.parametrize("size", [0, 1, 12, 28])
def test_what_is_too_short_is_noticed(size: int) -> None:
    with pytest.raises(Corrupt):
        SEALER.unseal(SEALER.seal(KEY, KEY.key_name, NONCE)[:size], KEY.key_name)


@pytest.mark.parametrize(
    ("place", "kept"),
    [(KeyFile("/run/keys/main"), "file"), (KeyCommand(("/bin/sign", "--key", "höher")), "command")],
    ids=["file", "command"],
)
def test_place_of_a_key_is_sealed_as_a_key_is(place: KeyPlace, kept: str) -> None:
    sealed = SEALER.seal(place, KEY.key_name, NONCE)
    assert SEALER.unseal(sealed, KEY.key_name) == place
    assert how_kept(sealed) == kept
    assert b"/" not in sealed[13:20]
    for name, sealer in ((OTHER.key_name, SEALER), (KEY.key_name, Sealer(b"x" * 32))):
        with pytest.raises(Corrupt):
            sealer.unseal(sealed, name)


@pytest.mark.parametrize("version", [b"\x01", b"\x02", b"\x03"])
def test_sealed_key_is_not_taken_for_a_place_nor_a_file_for_a_command(version: bytes) -> None:
    """Else whoever writes to the database could have a key's text, or a file's name, run."""
    for kept in (KEY, KeyFile("/bin/sh"), KeyCommand(("/bin/sh",))):
        sealed = SEALER.seal(kept, KEY.key_name, NONCE)
        if sealed[:1] != version:
            with pytest.raises(Corrupt):
                SEALER.unseal(version + sealed[1:], KEY.key_name)


@pytest.mark.parametrize(
    "place",
    [KeyFile("keys/main"), KeyFile(""), KeyCommand(()), KeyCommand(("sh", "-c")), KeyFile("/" * MAX_PLACE_BYTES)],
    ids=["relative", "empty", "no words", "no path", "long"],
)
def test_place_that_is_not_absolute_or_long_is_refused(place: KeyPlace) -> None:
    with pytest.raises(InvalidFormat):
        SEALER.seal(place, KEY.key_name, NONCE)


def test_a_secret_of_another_length_is_refused() -> None:
    with pytest.raises(InvalidFormat, match="31 bytes"):
        Sealer(b"k" * 31)


async def test_keys_come_in_the_order_in_which_they_were_added(database: Database, cache_id: int) -> None:
    signer = Signer(database, SEALER)
    add_key(database, cache_id, KEY)
    assert await signer.sign(cache_id, [b"a"]) == Signed((KEY.public_key,), [[KEY.sign(b"a")]])
    add_key(database, cache_id, OTHER)
    both = await signer.sign(cache_id, [b"a", b"b"])
    assert both.keys == (KEY.public_key, OTHER.public_key)
    assert both.signatures == [[KEY.sign(text), OTHER.sign(text)] for text in (b"a", b"b")]
    assert await signer.sign(cache_id, []) == Signed(both.keys, [])


async def test_key_is_decrypted_once(database: Database, cache_id: int) -> None:
    signer = Signer(database, SEALER)
    add_key(database, cache_id, KEY)
    await signer.sign(cache_id, [b"a"])
    await database.write(lambda connection: set_sealed_key(connection, 1, b"damaged"))
    assert (await signer.sign(cache_id, [b"b"])).signatures == [[KEY.sign(b"b")]]


async def test_a_deleted_cache_has_no_keys(database: Database, cache_id: int) -> None:
    signer = Signer(database, SEALER)
    add_key(database, cache_id, KEY)
    await signer.sign(cache_id, [b"a"])
    await database.write(lambda connection: delete_cache(connection, cache_id))
    assert await signer.sign(cache_id, [b"a"]) == Signed((), [[]])


async def test_a_public_key_that_is_not_the_secret_ones_is_noticed(database: Database, cache_id: int) -> None:
    public = SecretKey.generate(KEY.key_name, b"z" * 32).public_key
    sealed = SEALER.seal(KEY, KEY.key_name, NONCE)
    await database.write(lambda connection: insert_key(connection, cache_id, public, sealed, now=0))
    with pytest.raises(Corrupt, match="another key's"):
        await Signer(database, SEALER).sign(cache_id, [])

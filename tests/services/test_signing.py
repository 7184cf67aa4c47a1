from collections.abc import Iterator
from pathlib import Path

import pytest

from icehouse.db.caches import PUBLIC_DOMAIN_ID, delete_cache, insert_cache
from icehouse.db.engine import Database
from icehouse.db.keys import insert_key
from icehouse.db.migrate import prepare_database
from icehouse.errors import Corrupt, InvalidFormat
from icehouse.nix.signing import SecretKey
from icehouse.nix.store_paths import NIX_STORE
from icehouse.services.signing import Sealer, Signer

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
    sealed = SEALER.seal(key, NONCE)
    database.write_now(lambda connection: insert_key(connection, cache_id, key.public_key, sealed, now=0))


def test_a_sealed_key_is_opened_and_shows_nothing() -> None:
    sealed = SEALER.seal(KEY, NONCE)
    assert SEALER.unseal(sealed, KEY.key_name) == KEY
    assert sealed[:13] == b"\x01" + NONCE
    assert KEY.seed not in sealed
    assert KEY.render().encode()[-40:] not in sealed


def test_a_key_sealed_with_another_secret_is_not_opened() -> None:
    with pytest.raises(Corrupt, match="cannot be decrypted with the secret"):
        Sealer(b"x" * 32).unseal(SEALER.seal(KEY, NONCE), KEY.key_name)


def test_a_key_moved_to_another_name_is_not_opened() -> None:
    with pytest.raises(Corrupt):
        SEALER.unseal(SEALER.seal(KEY, NONCE), OTHER.key_name)


@pytest.mark.parametrize("place", [0, 1, 13, 50, -1])
def test_a_changed_byte_is_noticed(place: int) -> None:
    sealed = bytearray(SEALER.seal(KEY, NONCE))
    sealed[place] ^= 1
    with pytest.raises(Corrupt):
        SEALER.unseal(bytes(sealed), KEY.key_name)


@pytest.mark.parametrize("size", [0, 1, 12, 28])
def test_what_is_too_short_is_noticed(size: int) -> None:
    with pytest.raises(Corrupt):
        SEALER.unseal(SEALER.seal(KEY, NONCE)[:size], KEY.key_name)


def test_a_secret_of_another_length_is_refused() -> None:
    with pytest.raises(InvalidFormat, match="31 bytes"):
        Sealer(b"k" * 31)


async def test_keys_come_in_the_order_in_which_they_were_added(database: Database, cache_id: int) -> None:
    signer = Signer(database, SEALER)
    add_key(database, cache_id, KEY)
    assert await signer.secret_keys(cache_id) == (KEY,)
    add_key(database, cache_id, OTHER)
    assert await signer.secret_keys(cache_id) == (KEY, OTHER)
    assert (await signer.secret_keys(cache_id))[0] is (await signer.secret_keys(cache_id))[0]


async def test_a_deleted_cache_has_no_keys(database: Database, cache_id: int) -> None:
    signer = Signer(database, SEALER)
    add_key(database, cache_id, KEY)
    await signer.secret_keys(cache_id)
    await database.write(lambda connection: delete_cache(connection, cache_id))
    assert await signer.secret_keys(cache_id) == ()


async def test_a_public_key_that_is_not_the_secret_ones_is_noticed(database: Database, cache_id: int) -> None:
    public = SecretKey.generate(KEY.key_name, b"z" * 32).public_key
    sealed = SEALER.seal(KEY, NONCE)
    await database.write(lambda connection: insert_key(connection, cache_id, public, sealed, now=0))
    with pytest.raises(Corrupt, match="another key's"):
        await Signer(database, SEALER).secret_keys(cache_id)

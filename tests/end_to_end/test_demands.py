"""A cache that demands signatures takes what real Nix signed, natively and by `nix copy`, and nothing else."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.end_to_end.conftest import Done, Published, User
from tests.end_to_end.test_nix_copy import Pusher, make_pusher

pytestmark = pytest.mark.end_to_end


@pytest.fixture
def pusher(published: Published, line: str, tmp_path: Path) -> Pusher:
    """Somebody with a cache that demands the signature of their own key."""
    name = f"demands-{len(published.admin.icehouse('cache', 'list').out.splitlines())}"
    pusher = make_pusher(published.server, published.admin, line, tmp_path / "pusher", name)
    shown = published.admin.icehouse("cache", "configure", name, "--require-signature", pusher.own_key).out
    assert f"demands      a signature by {pusher.own_key}\n" in shown
    return pusher


def push(published: Published, pusher: Pusher) -> Done:
    """Push with our command line, as the administrator, from the store of the other."""
    user = User(pusher.nix.home, {**pusher.nix.environment, **_login(published)})
    return user.try_icehouse("push", pusher.cache, "--store", str(pusher.nix.root), pusher.top)


def _login(published: Published) -> dict[str, str]:
    return {"ICEHOUSE_URL": published.server.url, "ICEHOUSE_TOKEN": published.server.admin_token}


def count(published: Published, pusher: Pusher) -> int:
    return int(published.admin.icehouse("cache", "show", pusher.cache, "--json").json["paths"])


def sign(pusher: Pusher, secret: Path) -> None:
    pusher.nix.run("nix", "store", "sign", "--store", pusher.nix.root, "-k", secret, "--recursive", pusher.top)


def make_secret(pusher: Pusher, name: str) -> Path:
    secret, public = (pusher.nix.home / f"{name}.{kind}" for kind in ("secret", "public"))
    pusher.nix.run("nix-store", "--generate-binary-cache-key", name, secret, public)
    return secret


@pytest.mark.column("demanded signature, own push")
def test_push_takes_what_nix_signed_with_the_demanded_key(published: Published, pusher: Pusher) -> None:
    done = push(published, pusher)
    assert (done.code, "carries no signature by a key that this cache demands" in done.err) == (1, True), done
    assert "sign it with own-1 (nix store sign" in " ".join(done.err.split())
    sign(pusher, make_secret(pusher, "other-1"))
    assert push(published, pusher).code == 1
    sign(pusher, pusher.secret_file)
    assert push(published, pusher).code == 0
    assert count(published, pusher) == 3
    reader = pusher.make_reader(pusher.nix.line, pusher.nix.home / "reader")
    reader.use_cache(pusher.url, pusher.own_key)  # the signature that was demanded is served
    reader.pull(pusher.top)
    pusher.check(reader)


@pytest.mark.column("demanded signature, nix copy")
def test_nix_copy_brings_what_is_signed_with_the_demanded_key(published: Published, pusher: Pusher) -> None:
    def copy(parameters: str) -> Done:
        to = f"{pusher.url}?compression=zstd{parameters}"
        done = pusher.nix.try_run("nix", "copy", "--store", pusher.nix.root, "--to", to, pusher.top)
        return Done(done.returncode, done.stdout, done.stderr)

    refused = copy("")
    assert (refused.code, "409" in refused.err) == (1, True), refused
    assert "carries no signature by a key that this cache demands" in refused.err
    forged = make_secret(pusher, "own-1")  # a key of the same name
    refused = copy(f"&secret-key={forged}")
    assert (refused.code, "is not by the key of that name which this cache demands" in refused.err) == (1, True)
    assert count(published, pusher) == 0
    assert copy(f"&secret-key={pusher.secret_file}").code == 0
    assert count(published, pusher) == 3


@pytest.mark.column("demand taken back")
def test_demand_is_taken_back_and_then_anything_is_taken(published: Published, pusher: Pusher) -> None:
    configure = ("cache", "configure", pusher.cache, "--require-signature")
    both = published.admin.try_icehouse(*configure, "none", "--require-signature", pusher.own_key)
    assert (both.code, "give none, or keys, not both" in both.err) == (1, True)
    assert "\ndemands " not in published.admin.icehouse(*configure, "none").out
    assert push(published, pusher).code == 0


def test_only_an_administrator_says_whose_signatures_count(published: Published) -> None:
    admin = published.admin
    key = admin.icehouse("cache", "show", "other", "--json").json["public_keys"][0]
    admin.icehouse("cache", "create", "strict", "--require-signature", key)
    assert admin.icehouse("cache", "show", "strict", "--json").json["required_keys"] == [key]
    token = admin.icehouse("token", "create", "keeper", "--allow", "configure", "--caches", "strict", "-q").out.strip()
    keeper = replace(admin, environment={**admin.environment, **_login(published), "ICEHOUSE_TOKEN": token})
    done = keeper.try_icehouse("cache", "configure", "strict", "--require-signature", "none")
    assert done.code == 3, done
    keeper.icehouse("cache", "configure", "strict", "--retention", "30d")
    assert admin.icehouse("cache", "show", "strict", "--json").json["required_keys"] == [key]

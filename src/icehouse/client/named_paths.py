"""What the paths that a user names stand for: themselves, outputs of a derivation, all that was needed to build."""

from collections.abc import Iterable
from typing import Final

from icehouse.client.local_store import LocalStore
from icehouse.errors import InvalidFormat
from icehouse.nix.derivations import DERIVATION_EXTENSION
from icehouse.nix.store_paths import StorePath

_ALL: Final = "*"


def find_named_paths(store: LocalStore, texts: Iterable[str], *, with_build_closure: bool = False) -> list[StorePath]:
    """The paths that *texts* stand for, each once.

    ``PATH.drv^*`` are the outputs of a derivation that are there, ``PATH.drv^out,dev`` some, as in Nix since 2.13.
    A derivation alone stands for itself.

    Raises:
        NotFound: something is not in the store.
        InvalidFormat: a name of an output is malformed.
        IcehouseError: as `LocalStore.find_build_closure`.
    """
    found: dict[StorePath, None] = {}
    builds: dict[StorePath, None] = {}
    for text in texts:
        place, caret, outputs = text.rpartition("^")
        if caret and place.endswith(DERIVATION_EXTENSION):
            derivation = store.find(place)
            names = None if outputs == _ALL else outputs.split(",")
            if names == [""]:
                raise InvalidFormat(f"{text}: expected outputs behind the ^, such as {place}^out or {place}^*")
            found |= dict.fromkeys(store.find_outputs(derivation, names))
            builds[derivation] = None
        else:
            path = store.find(text)
            found[path] = builds[path] = None
    if with_build_closure:
        found |= dict.fromkeys(store.find_build_closure(list(builds)))
    return list(found)

"""The local Nix store: what Nix's own database says of paths, and where their files really are.

The database is read through ``nix path-info``, one process for a whole closure; files are read directly. A store may
have another physical root than its store directory, as one made with ``nix --store /mnt``.
"""

import os
import re
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Final, Self
from urllib.parse import parse_qs

from icehouse.client.cutting import LocalNar
from icehouse.errors import Conflict, InvalidFormat, NotFound, Unavailable, Unsupported
from icehouse.nix.derivations import is_derivation, output_path_name, parse_output_name
from icehouse.nix.path_info_json import PathInfos, ValidPath, parse_path_info_json
from icehouse.nix.store_paths import NIX_STORE, HashPart, StoreDir, StorePath, parse_full

_MAX_SYMLINKS: Final = 40
_PATHS_AT_ONCE: Final = 1000
"""Paths on one command line: some 250 KB, well below what Linux takes."""

_LOCAL_KINDS: Final = frozenset({"", "auto", "daemon", "local"})
_JSON_FORMAT_SINCE: Final = (2, 33)
_VERSION: Final = re.compile(r"(\d+)\.(\d+)")
_MAX_MESSAGE: Final = 2000
_UNKNOWN_DERIVER: Final = "unknown-deriver"


@dataclass(frozen=True, slots=True)
class LocalStore:
    """A store whose files this machine can read."""

    store_dir: StoreDir = NIX_STORE
    """Where its paths say that they are."""
    real_dir: Path = field(default_factory=lambda: Path(NIX_STORE.path))
    """Where they are."""
    store_option: str | None = None
    """What ``nix --store`` is to be given; None: nothing, so that Nix's own default holds."""

    @classmethod
    def locate(cls, store: str | None, environment: Mapping[str, str]) -> Self:
        """The store that *store* names in Nix's syntax: a folder, or ``local?root=…`` and the like.

        Without *store*, ``$NIX_REMOTE`` says it, else it is this machine's.

        Raises:
            Unsupported: a store of another machine, or a binary cache: their files are not here.
        """
        text = environment.get("NIX_REMOTE", "") if store is None else store
        default_dir = environment.get("NIX_STORE_DIR") or NIX_STORE.path
        kind, _, query = text.partition("?")
        settings = {name: values[-1] for name, values in parse_qs(query).items()}
        if "/" in kind and "://" not in kind:
            root = Path(kind).absolute()
            settings = {"root": str(root), **settings}
            text = f"{root}?{query}" if query else str(root)
        elif kind not in _LOCAL_KINDS and not kind.startswith("unix://"):
            raise Unsupported(
                f"store {text!r}: expected a folder or a store of this machine, such as local?root=/mnt; "
                "only files that are here can be pushed"
            )
        store_dir = StoreDir.parse(settings.get("store", default_dir))
        real = settings.get("real")
        if real is None:
            # Below another root the files lie in nix/store, whatever the store directory is called.
            real = os.path.normpath(f"{settings['root']}/nix/store") if settings.get("root") else store_dir.path
        return cls(store_dir, Path(real), text if store is not None else None)

    def real_path(self, store_path: StorePath) -> Path:
        """Where the files of a path are."""
        return self.real_dir / store_path.base_name

    def find_nar(self, info: ValidPath) -> LocalNar:
        """The NAR of a path."""
        return LocalNar(info, self.real_path(info.store_path))

    def find(self, text: str) -> StorePath:
        """The store path that the user means: a path in the store, or a symlink that leads there, such as ``result``.

        Raises:
            NotFound: nothing is there, or it is not in the store.
            InvalidFormat: it is in the store, and no store path.
        """
        path = Path(os.path.normpath(Path.cwd() / text))
        for _ in range(_MAX_SYMLINKS):
            if (store_path := self._in_store(path)) is not None:
                if not os.path.lexists(self.real_path(store_path)):
                    raise NotFound(f"{text} is not in the store {self.real_dir}; a path that was built is expected")
                return store_path
            if not path.is_symlink():
                break
            path = Path(os.path.normpath(path.parent / path.readlink()))
        resolved = path.resolve()
        if resolved != path and self._in_store(resolved) is not None:
            return self.find(str(resolved))
        what = "does not lead into" if os.path.lexists(path) else "is not there, let alone in"
        raise NotFound(f"{text} {what} the store directory {self.store_dir}")

    def _in_store(self, path: Path) -> StorePath | None:
        for directory in (Path(self.store_dir.path), self.real_dir):
            if directory in path.parents:
                return StorePath.parse(path.relative_to(directory).parts[0])
        return None

    def find_outputs(self, derivation: StorePath, names: Sequence[str] | None = None) -> list[StorePath]:
        """The outputs of a derivation that are in the store.

        Args:
            derivation: a path that is valid in the store.
            names: which outputs, such as ``out``. None: all; those that are not there are left out then.

        Raises:
            NotFound: it has none, or none with such a name, in the store.
            IcehouseError: as `read_closure`.
        """
        full = derivation.full(self.store_dir)
        outputs = sorted(self._parse_paths(self._query("--outputs", [full])), key=lambda path: path.name)
        if names is None:
            built = [path for path in outputs if self._is_there(path)]
            if not built:
                raise NotFound(f"{full} has no output in the store {self.real_dir}; build it first")
            return built
        chosen: list[StorePath] = []
        for name in names:
            wanted = output_path_name(derivation, parse_output_name(name))
            path = next((path for path in outputs if path.name == wanted), None)
            if path is None or not self._is_there(path):
                why = "has no output of that name" if path is None else "was not built"
                raise NotFound(f"{full}^{name} {why}; it has {', '.join(path.name for path in outputs)}")
            chosen.append(path)
        return chosen

    def find_build_closure(self, paths: Sequence[StorePath]) -> list[StorePath]:
        """All that was needed to build *paths*, or the outputs of those that are derivations, as far as it is here.

        That is the sources and the outputs of each derivation that theirs needs, without the derivations themselves.
        Paths that nothing built need nothing.

        Raises:
            NotFound: the derivation that built a path is not in the store any more.
            IcehouseError: as `read_closure`.
        """
        derivations = [path for path in paths if is_derivation(path)]
        built = [path for path in paths if not is_derivation(path)]
        for start in range(0, len(built), _PATHS_AT_ONCE):
            derivations += self._find_derivers(built[start : start + _PATHS_AT_ONCE])
        needed: dict[StorePath, None] = {}
        for start in range(0, len(derivations), _PATHS_AT_ONCE):
            batch = [path.full(self.store_dir) for path in derivations[start : start + _PATHS_AT_ONCE]]
            found = self._parse_paths(self._query("--requisites", ["--include-outputs", *batch]))
            needed |= dict.fromkeys(path for path in found if not is_derivation(path))
        return list(needed)

    def _find_derivers(self, paths: Sequence[StorePath]) -> list[StorePath]:
        derivers = self._query("--deriver", [path.full(self.store_dir) for path in paths])
        if len(derivers) != len(paths):
            raise InvalidFormat(f"nix-store: {len(derivers)} derivers of {len(paths)} paths: expected one each")
        found: dict[StorePath, None] = {}
        for path, text in zip(paths, derivers, strict=True):
            if text == _UNKNOWN_DERIVER:
                continue
            deriver = parse_full(text, self.store_dir)
            if not self._is_there(deriver):
                raise NotFound(
                    f"what built {path.full(self.store_dir)} is not known: its derivation {text} is not in the store "
                    "any more; evaluate it again, with nix-instantiate for instance, or push without --build-closure"
                )
            found[deriver] = None
        return list(found)

    def _is_there(self, path: StorePath) -> bool:
        return os.path.lexists(self.real_path(path))

    def _parse_paths(self, lines: Iterable[str]) -> list[StorePath]:
        return [parse_full(line, self.store_dir) for line in lines]

    def _query(self, what: str, arguments: Sequence[str]) -> list[str]:
        command = ["nix-store", "--query", what]
        if self.store_option is not None:
            command += ["--store", self.store_option]
        return _run_nix([*command, *arguments], f"nix-store --query {what}").decode(errors="replace").split()

    def read_closure(self, paths: Sequence[StorePath]) -> list[ValidPath]:
        """What the store knows of *paths* and all that they reach, references before what refers to them.

        Raises:
            NotFound: a path is not valid in this store.
            Unsupported: there is no Nix.
            InvalidFormat: Nix prints what no known Nix prints.
            Unavailable: Nix failed.
        """
        found: dict[HashPart, ValidPath] = {}
        for asked, options in _questions(paths):
            wanted = [path for path in asked if path.hash_part not in found]
            if wanted:
                infos = self._ask_nix(wanted, "--recursive", *options)
                if infos.unknown:
                    unknown = infos.unknown[0].full(self.store_dir)
                    raise NotFound(f"{unknown} is not valid in the store {self.real_dir}")
                found |= {info.store_path.hash_part: info for info in infos.valid}
        return order_by_references(found.values())

    def find_valid(self, paths: Sequence[StorePath]) -> list[ValidPath]:
        """What the store knows of those of *paths* that are valid in it.

        Raises:
            Unsupported: there is no Nix.
            InvalidFormat: Nix prints what no known Nix prints.
            Unavailable: Nix failed.
        """
        return [info for asked, options in _questions(paths) for info in self._ask_nix(asked, *options).valid]

    def _ask_nix(self, paths: Sequence[StorePath], *options: str) -> PathInfos:
        command = ["nix", "--extra-experimental-features", "nix-command", "path-info"]
        command += ["--json", "--offline", *options]
        if _knows_json_format(_run_nix(["nix", "--version"], "nix --version")):
            command += ["--json-format", "2"]
        if self.store_option is not None:
            command += ["--store", self.store_option]
        command += ["--", *(path.full(self.store_dir) for path in paths)]
        return parse_path_info_json(_run_nix(command, "nix path-info"), self.store_dir)


def _questions(paths: Sequence[StorePath]) -> Iterator[tuple[Sequence[StorePath], Sequence[str]]]:
    """*paths* in parts that fit on command lines, each with the options that it needs.

    Nix before 2.15 takes the name of a derivation for its outputs, and needs to be told for all of a command.
    """
    derivations = [path for path in paths if is_derivation(path)]
    others = [path for path in paths if not is_derivation(path)]
    for asked, options in ((others, ()), (derivations, ("--derivation",))):
        for start in range(0, len(asked), _PATHS_AT_ONCE):
            yield asked[start : start + _PATHS_AT_ONCE], options


def order_by_references(infos: Iterable[ValidPath]) -> list[ValidPath]:
    """*infos*, each after those that it refers to; the same every time.

    Raises:
        Conflict: paths refer to each other in a circle, or to one that is not in *infos*.
    """
    by_path = {info.store_path: info for info in sorted(infos, key=lambda info: info.store_path)}
    sorter: TopologicalSorter[StorePath] = TopologicalSorter()
    for path, info in by_path.items():
        for reference in info.references:
            if reference not in by_path:
                raise Conflict(f"the store is damaged: {path} refers to {reference}, which is not in its closure")
        sorter.add(path, *(reference for reference in info.references if reference != path))
    try:
        return [by_path[path] for path in sorter.static_order()]
    except CycleError as exc:
        raise Conflict(f"the store is damaged: {exc.args[1][0]} refers to itself through others") from exc


def _knows_json_format(version_text: bytes) -> bool:
    """From the text of ``nix --version``. Lix counts on from 2.90 and has no formats."""
    text = version_text.decode(errors="replace")
    match = _VERSION.search(text.rpartition(")")[2])
    return match is not None and (int(match[1]), int(match[2])) >= _JSON_FORMAT_SINCE and "Lix" not in text


def _run_nix(command: Sequence[str], what: str) -> bytes:
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    except FileNotFoundError as exc:
        raise Unsupported(f"the program `{command[0]}` is not in PATH; it says what the local store holds") from exc
    except OSError as exc:
        raise Unavailable(f"`{command[0]}` cannot be run: {exc.strerror}") from exc
    if done.returncode != 0:
        text = done.stderr.decode(errors="replace").strip()[-_MAX_MESSAGE:]
        kind = NotFound if "is not valid" in text else Unavailable
        raise kind(f"`{what}` failed: {text}")
    return done.stdout

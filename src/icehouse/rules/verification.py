"""What verification looks for, and what it means for paths when something is found."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final, Protocol

from icehouse.rules.packs import PackEntry, render_places
from icehouse.rules.recipes import Recipe

DAMAGED: Final = "damaged: "
"""Opens the `hidden_because` of every path that damage hid, its own or that of what it reaches."""

UNREADABLE: Final = f"{DAMAGED}its NAR cannot be read whole"
INCOMPLETE: Final = f"{DAMAGED}its closure is not complete"
ROWS_WRONG: Final = f"{DAMAGED}its row or its recipe is wrong"
"""Nothing heals this but a push of the path: sound chunks prove nothing here."""

_REACHES: Final = f"{DAMAGED}it reaches "


class Fault(Enum):
    """A kind of damage."""

    PACK_MISSING = "pack-missing"
    PACK_ALTERED = "pack-altered"
    """Its bytes are not those that its name is the hash of, or its index cannot be read."""
    CHUNK_DAMAGED = "chunk-damaged"
    """A frame fails its proof."""
    CHUNK_MISPLACED = "chunk-misplaced"
    """A chunk's row and the index of its pack disagree."""
    RECIPE_BROKEN = "recipe-broken"
    """It cannot be read, names chunks that are not there, or does not add up."""
    NAR_UNREADABLE = "nar-unreadable"
    """Some of its chunks are quarantined."""
    NAR_ALTERED = "nar-altered"
    """Every chunk is sound, and the recipe gives another hash."""
    PATH_DISAGREES = "path-disagrees"
    """A path's row says something else than the row of its NAR."""
    SIGNATURE_WRONG = "signature-wrong"
    """A signature under the name of one of the cache's own keys that this key did not make."""
    CLOSURE_BROKEN = "closure-broken"
    """A visible path refers to one that is neither visible nor external."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong."""

    fault: Fault
    place: str
    """What is wrong: a pack's key, a NAR's hash, or a path as `<cache>/<base name>`."""
    detail: str
    paths: tuple[str, ...] = ()
    """Visible paths that are hit directly, as `<cache>/<base name>`."""


class PlacedChunk(Protocol):
    """What a chunk's row says."""

    @property
    def number(self) -> int:
        """Names the row."""
        ...

    @property
    def identity(self) -> bytes:
        """Names the chunk."""
        ...

    @property
    def pack_offset(self) -> int:
        """Where its frame begins."""
        ...

    @property
    def stored_bytes(self) -> int:
        """Bytes of the frame."""
        ...

    @property
    def raw_bytes(self) -> int:
        """Bytes of the chunk."""
        ...

    @property
    def places(self) -> bytes | None:
        """As `render_places` wrote it; None: no store hash."""
        ...


class CountedChunk(Protocol):
    """What a recipe needs to know of a chunk."""

    @property
    def raw_bytes(self) -> int:
        """Bytes of the chunk."""
        ...

    @property
    def is_sound(self) -> bool:
        """False: quarantined."""
        ...


def compare_index(entries: Sequence[PackEntry], rows: Iterable[PlacedChunk]) -> dict[int, str]:
    """Where the rows of a pack's chunks say something else than its index: for each such row what differs.

    A frame that no row names is none of our concern: another pack may hold that chunk.
    """
    there: dict[bytes, tuple[int, PackEntry]] = {}
    end = 0
    for entry in entries:
        there[entry.identity] = end, entry
        end += entry.stored_bytes
    faults: dict[int, str] = {}
    for row in rows:
        offset, entry = there.get(row.identity, (-1, None))
        if entry is None:
            faults[row.number] = "the index does not name it"
        elif (offset, entry.stored_bytes) != (row.pack_offset, row.stored_bytes):
            faults[row.number] = (
                f"the index has it at {offset} with {entry.stored_bytes} bytes, "
                f"its row at {row.pack_offset} with {row.stored_bytes}"
            )
        elif entry.raw_bytes != row.raw_bytes or _render(entry) != row.places:
            faults[row.number] = "the index says otherwise how long it is or where its store hashes are"
    return faults


def _render(entry: PackEntry) -> bytes | None:
    return render_places(entry.places) if entry.places.positions else None


def check_recipe(recipe: Recipe, nar_size: int, chunks: Mapping[int, CountedChunk]) -> tuple[Fault, str] | None:
    """What is wrong with a recipe, as far as the rows of its chunks tell; `None`: nothing."""
    size = 0
    absent: list[int] = []
    unsound: set[int] = set()
    for run in recipe.runs:
        for number in range(run.first, run.first + run.count):
            row = chunks.get(number)
            if row is None:
                absent.append(number)
                continue
            size += row.raw_bytes
            if not row.is_sound:
                unsound.add(number)
    if absent:
        return Fault.RECIPE_BROKEN, f"chunk {absent[0]} is not there" + _and_more(len(absent))
    if size != nar_size:
        return Fault.RECIPE_BROKEN, f"its chunks have {size} bytes, the NAR {nar_size}"
    if unsound:
        return Fault.NAR_UNREADABLE, f"{len(unsound)} of its chunks are quarantined"
    return None


def _and_more(count: int) -> str:
    return f", nor {count - 1} more" if count > 1 else ""


def plan_hiding(
    damaged: Mapping[str, str], paths: Iterable[tuple[str, str]], known: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Which visible paths must be hidden since they refer to damaged ones, by hash part, each with the reason.

    One look at each path, in the order given: call it until nothing is added.

    Args:
        damaged: the hash parts of damaged paths, with their base names.
        paths: visible paths: the hash part, and the references as base names joined by spaces.
        known: what earlier looks found: hash parts, with the base name of the damaged path that each reaches.

    Returns:
        *known* and what was added: hash parts with the base name of the damaged path that each reaches.
    """
    found = dict(known or {})
    for hash_part, references in paths:
        if hash_part in damaged or hash_part in found:
            continue
        for reference in references.split():
            reached = damaged.get(reference[:32]) or found.get(reference[:32])
            if reached is not None:
                found[hash_part] = reached
                break
    return found


def referrer_reason(reached: str) -> str:
    """The reason to hide a path that reaches the damaged one called *reached*."""
    return f"{_REACHES}{reached}"

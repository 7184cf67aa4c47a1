"""What may become visible: each direct reference of a published path is there, so by induction its closure is."""

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from icehouse.nix.content_address import ContentAddress
from icehouse.nix.signing import PublicKey, Signature
from icehouse.nix.store_paths import HashPart, StorePath
from icehouse.rules.demands import lacks_signature

MAX_SIGNATURES = 16
"""Signatures that one path may carry."""


@dataclass(frozen=True, slots=True)
class PathRecord:
    """One path that somebody wants to publish. References are sorted and distinct, and may hold the path itself."""

    store_path: StorePath
    nar_hash: bytes
    nar_size: int
    references: tuple[StorePath, ...]
    deriver: StorePath | None
    system: str | None
    ca: ContentAddress | None
    signatures: tuple[Signature, ...]


@dataclass(frozen=True, slots=True)
class VisiblePath:
    """A path that is visible in the cache already."""

    store_path: StorePath
    nar_hash: bytes
    references: tuple[StorePath, ...]


@dataclass(frozen=True, slots=True)
class PublishFacts:
    """What the database says about a batch."""

    visible: Mapping[HashPart, VisiblePath]
    """Those of the batch's paths and references that are visible."""
    externals: Mapping[HashPart, StorePath]
    """Those of the references that an upstream has, known before or with evidence in this request."""
    nar_sizes: Mapping[bytes, int]
    """Those of the batch's NARs, and of the waiting paths', that are stored in the cache's domain, by hash."""
    waiting: Mapping[HashPart, PathRecord] = field(default_factory=dict[HashPart, PathRecord])
    """Paths that wait for one of the batch's, for one that waits for these, and so on."""
    damaged_nars: frozenset[bytes] = frozenset()
    """Those of the NARs that cannot be read whole, by hash: they must be sent again."""
    required_keys: tuple[PublicKey, ...] = ()
    """Unless there are none, what becomes visible carries a signature by one of them."""
    vouched: frozenset[PathRecord] = frozenset()
    """Those of the batch's and of the waiting paths that do."""


@dataclass(frozen=True, slots=True)
class PublishPlan:
    """What to do with a batch. If `refused` is not empty, nothing is done."""

    publish: tuple[PathRecord, ...]
    merge: tuple[PathRecord, ...]
    """These are there with the same NAR and references: their signatures may be added."""
    refused: tuple[tuple[StorePath, str], ...]
    """What is wrong with which path."""
    may_wait: tuple[PathRecord, ...] = ()
    """Those of the refused that lack nothing but references."""
    absent: tuple[StorePath, ...] = ()
    """The references that these lack."""
    complete: tuple[PathRecord, ...] = ()
    """These waited for their references, and have them all with this batch."""


def plan_publish(records: Sequence[PathRecord], facts: PublishFacts) -> PublishPlan:
    """Decide about a batch as a whole. Reads and writes nothing."""
    batch = {record.store_path.hash_part: record.store_path for record in records}
    publish: list[PathRecord] = []
    merge: list[PathRecord] = []
    refused: list[tuple[StorePath, str]] = []
    may_wait: list[PathRecord] = []
    all_absent: dict[StorePath, None] = {}
    seen: set[HashPart] = set()
    for record in records:
        path = record.store_path
        present = facts.visible.get(path.hash_part)
        if path.hash_part in seen:
            refused.append((path, "it is named twice in this request"))
        elif present is not None:
            reason = _conflict(record, present)
            if reason is None:
                merge.append(record)
            else:
                refused.append((path, reason))
        else:
            faults = _find_faults(record, facts, batch)
            absent = _find_absent(record, facts, batch)
            if faults or absent:
                reasons = [
                    f"its reference {missing.base_name} is neither here, nor in this request, nor external"
                    for missing in absent
                ]
                refused.append((path, "; ".join([*faults, *reasons])))
                if not faults:
                    may_wait.append(record)
                    all_absent |= dict.fromkeys(absent)
            else:
                publish.append(record)
        seen.add(path.hash_part)
    complete = () if refused else _find_complete(facts, batch)
    return PublishPlan(tuple(publish), tuple(merge), tuple(refused), tuple(may_wait), tuple(all_absent), complete)


def _find_complete(facts: PublishFacts, batch: Mapping[HashPart, StorePath]) -> tuple[PathRecord, ...]:
    left = {hash_part: record for hash_part, record in facts.waiting.items() if hash_part not in batch}
    there = dict(batch)
    absent_counts: dict[HashPart, int] = {}
    waiting_for: dict[HashPart, list[PathRecord]] = {}
    ready: deque[PathRecord] = deque()
    for hash_part, record in left.items():
        absent = _find_absent(record, facts, batch)
        absent_counts[hash_part] = len(absent)
        for reference in absent:
            waiting_for.setdefault(reference.hash_part, []).append(record)
        if not absent:
            ready.append(record)
    complete: list[PathRecord] = []
    while ready:
        record = ready.popleft()
        if _find_faults(record, facts, there):
            continue
        hash_part = record.store_path.hash_part
        there[hash_part] = record.store_path
        complete.append(record)
        for waiting in waiting_for.get(hash_part, ()):
            absent_counts[waiting.store_path.hash_part] -= 1
            if not absent_counts[waiting.store_path.hash_part]:
                ready.append(waiting)
    return tuple(complete)


def _conflict(record: PathRecord, present: VisiblePath) -> str | None:
    if present.store_path != record.store_path:
        return f"its hash part is that of {present.store_path.base_name}, which is here already"
    if present.nar_hash != record.nar_hash:
        return "it is here already with another NAR hash; nothing was changed"
    if present.references != record.references:
        return "it is here already with other references; nothing was changed"
    return None


def _find_faults(record: PathRecord, facts: PublishFacts, batch: Mapping[HashPart, StorePath]) -> list[str]:
    reasons: list[str] = []
    size = facts.nar_sizes.get(record.nar_hash)
    if size is None:
        reasons.append("its NAR is not stored; send it first")
    elif size != record.nar_size:
        reasons.append(f"its NAR has {size} bytes, not {record.nar_size}")
    elif record.nar_hash in facts.damaged_nars:
        reasons.append("its NAR was found damaged; send it again")
    if facts.required_keys and record not in facts.vouched:
        reasons.append(lacks_signature(record.signatures, facts.required_keys))
    for reference in record.references:
        there = _find_there(reference, facts, batch)
        if there is not None and there != reference:
            reasons.append(f"its reference {reference.base_name} is here under the name {there.name}")
    return reasons


def _find_absent(record: PathRecord, facts: PublishFacts, batch: Mapping[HashPart, StorePath]) -> list[StorePath]:
    return [
        reference
        for reference in record.references
        if reference != record.store_path and _find_there(reference, facts, batch) is None
    ]


def _find_there(reference: StorePath, facts: PublishFacts, batch: Mapping[HashPart, StorePath]) -> StorePath | None:
    visible = facts.visible.get(reference.hash_part)
    if visible is not None:
        return visible.store_path
    return batch.get(reference.hash_part) or facts.externals.get(reference.hash_part)


def merge_signatures(present: Sequence[Signature], offered: Sequence[Signature]) -> tuple[Signature, ...]:
    """*present* and what is new in *offered*, at most `MAX_SIGNATURES`; the present ones first."""
    merged = dict.fromkeys([*present, *offered])
    return tuple(merged)[:MAX_SIGNATURES]

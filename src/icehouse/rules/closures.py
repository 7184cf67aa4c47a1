"""What may become visible: each direct reference of a published path is there, so by induction its closure is."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from icehouse.nix.content_address import ContentAddress
from icehouse.nix.signing import Signature
from icehouse.nix.store_paths import HashPart, StorePath

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
    """Those of the batch's NARs that are stored in the cache's domain, by hash."""


@dataclass(frozen=True, slots=True)
class PublishPlan:
    """What to do with a batch. If `refused` is not empty, nothing is done."""

    publish: tuple[PathRecord, ...]
    merge: tuple[PathRecord, ...]
    """These are there with the same NAR and references: their signatures may be added."""
    refused: tuple[tuple[StorePath, str], ...]
    """What is wrong with which path."""


def plan_publish(records: Sequence[PathRecord], facts: PublishFacts) -> PublishPlan:
    """Decide about a batch as a whole. Reads and writes nothing."""
    batch = {record.store_path.hash_part: record.store_path for record in records}
    publish: list[PathRecord] = []
    merge: list[PathRecord] = []
    refused: list[tuple[StorePath, str]] = []
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
            reasons = _faults(record, facts, batch)
            if reasons:
                refused.append((path, "; ".join(reasons)))
            else:
                publish.append(record)
        seen.add(path.hash_part)
    return PublishPlan(tuple(publish), tuple(merge), tuple(refused))


def _conflict(record: PathRecord, present: VisiblePath) -> str | None:
    if present.store_path != record.store_path:
        return f"its hash part is that of {present.store_path.base_name}, which is here already"
    if present.nar_hash != record.nar_hash:
        return "it is here already with another NAR hash; nothing was changed"
    if present.references != record.references:
        return "it is here already with other references; nothing was changed"
    return None


def _faults(record: PathRecord, facts: PublishFacts, batch: Mapping[HashPart, StorePath]) -> list[str]:
    reasons: list[str] = []
    size = facts.nar_sizes.get(record.nar_hash)
    if size is None:
        reasons.append("its NAR is not stored; send it first")
    elif size != record.nar_size:
        reasons.append(f"its NAR has {size} bytes, not {record.nar_size}")
    for reference in record.references:
        hash_part = reference.hash_part
        visible = facts.visible.get(hash_part)
        there = visible.store_path if visible is not None else batch.get(hash_part) or facts.externals.get(hash_part)
        if there is None:
            reasons.append(f"its reference {reference.base_name} is neither here, nor in this request, nor external")
        elif there != reference:
            reasons.append(f"its reference {reference.base_name} is here under the name {there.name}")
    return reasons


def merge_signatures(present: Sequence[Signature], offered: Sequence[Signature]) -> tuple[Signature, ...]:
    """*present* and what is new in *offered*, at most `MAX_SIGNATURES`; the present ones first."""
    merged = dict.fromkeys([*present, *offered])
    return tuple(merged)[:MAX_SIGNATURES]

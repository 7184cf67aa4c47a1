"""What a push tells when it is over: to people, to programs, and to the page of a CI's job."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from icehouse.cli.printer import bytes_text
from icehouse.client.push_counts import PushCounts

if TYPE_CHECKING:
    from icehouse.nix.path_info_json import ValidPath
    from icehouse.nix.store_paths import StorePath

_MAX_NAMED: Final = 10


@dataclass(slots=True)
class Outcome:
    """What became of a push to one cache."""

    cache: str
    """As it was typed."""
    counts: PushCounts = field(default_factory=PushCounts)
    excluded: "Sequence[ValidPath]" = ()
    dependents: "Sequence[ValidPath]" = ()
    planned: "Sequence[ValidPath] | None" = None
    """What would be pushed, in a dry run."""
    error: Exception | None = None
    seconds: float = 0.0

    @property
    def missing(self) -> "list[StorePath]":
        """What was to be pushed and was not."""
        return [] if self.planned is not None else list(self.counts.waiting)


def outcome_data(outcome: Outcome) -> dict[str, object]:
    """An outcome for programs. The names are in the guide."""
    counts = outcome.counts
    data: dict[str, object] = {
        "cache": outcome.cache,
        "paths": counts.paths,
        "paths_present": counts.paths_present,
        "paths_upstream": counts.paths_upstream,
        "paths_excluded": counts.paths_excluded,
        "paths_pushed": counts.paths_pushed,
        "nar_bytes": counts.nar_bytes,
        "new_bytes": counts.new_bytes,
        "sent_bytes": counts.sent_bytes,
        "stored_bytes": counts.stored_bytes,
        "excluded": [info.store_path.base_name for info in outcome.excluded],
        "dependents": [info.store_path.base_name for info in outcome.dependents],
        "not_pushed": [path.base_name for path in outcome.missing],
        "error": None if outcome.error is None else error_text(outcome.error),
        "seconds": round(outcome.seconds, 3),
    }
    if outcome.planned is not None:
        data["to_push"] = [
            {"store_path": info.store_path.base_name, "nar_size": info.nar_size} for info in outcome.planned
        ]
    return data


def error_text(error: Exception) -> str:
    """An error in a line; those that are not ours by their kind too."""
    from icehouse.errors import IcehouseError

    text = " ".join(str(error).split())
    return text if isinstance(error, IcehouseError) else f"{type(error).__name__}: {text}"


def summary_text(outcome: Outcome) -> str:
    """An outcome for people, in a line; of a dry run with a line for each path."""
    counts = outcome.counts
    if outcome.planned is not None:
        lines = [f"{bytes_text(info.nar_size):>9}  {info.store_path.base_name}" for info in outcome.planned]
        summary = f"Would push {counts.paths_to_push} of {_of(counts)}"
        if lines:
            summary += f": {bytes_text(counts.nar_bytes)} of NARs, {bytes_text(counts.new_bytes)} new"
        return "\n".join([*lines, f"{summary}. Nothing was sent."])
    pushed = f"Pushed {counts.paths_pushed} of {_of(counts)}"
    if not counts.paths_pushed:
        return f"{pushed} in {outcome.seconds:.1f} s."
    return (
        f"{pushed}: {bytes_text(counts.nar_bytes)} of NARs, {bytes_text(counts.new_bytes)} new, "
        f"{bytes_text(counts.sent_bytes)} sent, in {outcome.seconds:.1f} s."
    )


def _of(counts: PushCounts) -> str:
    others: list[str] = []
    if counts.paths_present:
        others.append(f"{counts.paths_present} were there already")
    if counts.paths_upstream:
        others.append(f"{counts.paths_upstream} are upstream")
    if counts.paths_excluded:
        others.append(f"{counts.paths_excluded} left out")
    return f"{counts.paths} paths" + (f" ({', '.join(others)})" if others else "")


def left_out_text(outcome: Outcome) -> str | None:
    """What the user's exclusions keep from the cache, and why it is more than what they name; `None`: nothing."""
    if not outcome.excluded:
        return None
    text = f"Left out, as excluded: {_names([info.store_path for info in outcome.excluded])}."
    if outcome.dependents:
        dependents = _names([info.store_path for info in outcome.dependents])
        text += (
            f" Left out too, since they need one of these, and a cache takes whole closures only: {dependents}. "
            "What an upstream of the cache has, or the cache itself, may be excluded without that."
        )
    return text


def not_pushed_text(outcome: Outcome) -> str:
    """What a push that failed did not do, in a line."""
    missing = outcome.missing
    return (
        f"Not pushed to {outcome.cache}: {_names(missing)}." if missing else f"Nothing was pushed to {outcome.cache}."
    )


def _names(paths: "Sequence[StorePath]") -> str:
    named = ", ".join(path.base_name for path in paths[:_MAX_NAMED])
    return named + (f", and {len(paths) - _MAX_NAMED} more" if len(paths) > _MAX_NAMED else "")


def markdown_text(outcomes: Sequence[Outcome]) -> str:
    """A summary for a job's page: a table with a row for each cache, and below it what went wrong."""
    lines = [
        "### Icehouse",
        "",
        "| cache | pushed | there already | upstream | left out | NARs | new | sent | seconds |",
        "| --- | --: | --: | --: | --: | --: | --: | --: | --: |",
    ]
    for outcome in outcomes:
        counts = outcome.counts
        pushed = f"{counts.paths_pushed} of {counts.paths_to_push}"
        sizes = " | ".join(bytes_text(size) for size in (counts.nar_bytes, counts.new_bytes, counts.sent_bytes))
        lines.append(
            f"| `{_cell(outcome.cache)}` | {pushed} | {counts.paths_present} | {counts.paths_upstream} | "
            f"{counts.paths_excluded} | {sizes} | {outcome.seconds:.1f} |"
        )
    for outcome in outcomes:
        if outcome.error is not None:
            lines += ["", f"**{_cell(outcome.cache)}**: {_cell(error_text(outcome.error))}"]
            lines += ["", _cell(not_pushed_text(outcome))]
        left_out = left_out_text(outcome)
        if left_out is not None:
            lines += ["", f"**{_cell(outcome.cache)}**: {_cell(left_out)}"]
    return "\n".join([*lines, "", ""])


def _cell(text: str) -> str:
    """Text of others, such as a server, which must not become a table, a link or a tag."""
    for mark in "\\`|<>[]*":
        text = text.replace(mark, f"&#{ord(mark)};")
    return text

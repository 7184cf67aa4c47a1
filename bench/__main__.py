"""``python -m bench [NAME…]``: measure, and print one table of what came out. Progress goes to stderr."""

import argparse
import os
import sys
from collections.abc import Callable, Mapping

from bench.builds import measure_builds
from bench.comparators import compare_nginx_with_itself
from bench.copies import measure_copies
from bench.corpora import bench_folder, make_chain_corpus, make_large_corpus, make_plain_corpus, make_rebuild_corpus
from bench.differences import measure_differences
from bench.downloads import measure_downloads
from bench.huge import measure_memory
from bench.lifecycle import measure_lifecycle
from bench.narinfos import measure_narinfos
from bench.pages import measure_pages
from bench.pulls import measure_pulls
from bench.pushes import measure_pushes
from bench.start_up import measure_start_up
from bench.table import Row, render_table

_MEASUREMENTS: Mapping[str, Callable[[int], list[Row]]] = {
    "narinfo": measure_narinfos,
    "download": measure_downloads,
    "pull": measure_pulls,
    "push": measure_pushes,
    "nginx": compare_nginx_with_itself,
    "copy": measure_copies,
    "memory": measure_memory,
    "lifecycle": measure_lifecycle,
    "pages": measure_pages,
    "differences": measure_differences,
    "start": measure_start_up,
    "builds": measure_builds,
}
# They need up to 20 GB of disk, or minutes.
_ONLY_BY_NAME = {"copy", "memory", "lifecycle", "pages", "differences", "builds"}
_NEED_NO_CORPUS = {"lifecycle", "pages", "differences", "start", "builds"}


def main() -> int:
    """Run what the command line names, in the order above; 1 if a goal is not met."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument(
        "names",
        nargs="*",
        metavar="NAME",
        help=f"of {', '.join(_MEASUREMENTS)}; all but {', '.join(sorted(_ONLY_BY_NAME))} if none is given",
    )
    parser.add_argument("--rounds", type=int, default=5, help="how often each is measured, beside each other (5)")
    arguments = parser.parse_args()
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # a user's commands do not compile their modules at each start
    names: list[str] = arguments.names or [name for name in _MEASUREMENTS if name not in _ONLY_BY_NAME]
    if unknown := set(names) - set(_MEASUREMENTS):
        parser.error(f"no measurement is named {', '.join(sorted(unknown))}")
    if set(names) - _NEED_NO_CORPUS:
        for make in (make_rebuild_corpus, make_large_corpus, make_chain_corpus, make_plain_corpus):
            make(bench_folder())
    rows: list[Row] = []
    for name, measure in _MEASUREMENTS.items():
        if name in names:
            print(f"bench: measuring {name}", file=sys.stderr, flush=True)
            rows += measure(arguments.rounds)
    print(render_table(rows))
    return 0


sys.exit(main())

"""``python -m bench [NAME…]``: run measurements by name, or all of them."""

import argparse
from collections.abc import Callable, Mapping

from bench.comparators import compare_nginx_with_itself, measure_nix_copy, measure_nix_pull
from bench.corpora import bench_folder, make_chain_corpus, make_large_corpus, make_rebuild_corpus


def make_corpora() -> None:
    """Build all closures that measurements are made on, and say where they are."""
    for make in (make_rebuild_corpus, make_large_corpus, make_chain_corpus):
        corpus = make(bench_folder())
        print(f"{make.__name__}: {corpus.store.url}")
        print(f"  first:  {' '.join(corpus.first_roots)}")
        if corpus.second_roots:
            print(f"  second: {' '.join(corpus.second_roots)}")


_MEASUREMENTS: Mapping[str, Callable[[], None]] = {
    "corpora": make_corpora,
    "nix-copy": measure_nix_copy,
    "nix-pull": measure_nix_pull,
    "nginx": compare_nginx_with_itself,
}


def main() -> None:
    """Run what the command line names, in the order above."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(_MEASUREMENTS)}; all if none is given")
    names: list[str] = parser.parse_args().names
    if unknown := set(names) - set(_MEASUREMENTS):
        parser.error(f"no measurement is named {', '.join(sorted(unknown))}")
    for name, measure in _MEASUREMENTS.items():
        if not names or name in names:
            print(f"== {name}", flush=True)
            measure()


main()

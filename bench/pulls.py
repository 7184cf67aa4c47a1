"""A pull of 200 paths by real Nix into an empty store, from us and from nginx."""

import shutil
from pathlib import Path

from bench.comparators import file_cache
from bench.corpora import Corpus, bench_folder, make_chain_corpus
from bench.downloads import fetch_nar
from bench.nginx import Nginx
from bench.nix_store import NixStore
from bench.rounds import Series, interleave
from bench.server import IcehouseServer
from bench.table import Row, at_most, compared

_MANY_JOBS = 8
_PULLS_OF_A_ROUND = 5
"""By each, in turns: one pull takes half a second, of which the disk takes more or less, now and then another half."""


def measure_pulls(rounds: int) -> list[Row]:
    """One NAR at a time, as Nix 2.8 does by itself, and eight."""
    corpus = make_chain_corpus(bench_folder())
    mirror = bench_folder() / "mirror"
    with IcehouseServer(bench_folder() / "server") as ours, Nginx(mirror, bench_folder() / "nginx") as same:
        ours.push(corpus.store, *corpus.first_roots)
        copy_cache(ours, corpus, mirror)
        with Nginx(file_cache(corpus, "chain"), bench_folder() / "nginx-2") as copied:
            urls = {"ours": ours.cache_url, "same": same.url, "copied": copied.url}
            single, several = (
                {
                    name: Series(values)
                    for name, values in interleave(
                        {name: lambda url=url, jobs=jobs: pull(url, corpus, jobs=jobs) for name, url in urls.items()},
                        rounds=rounds * _PULLS_OF_A_ROUND,
                    ).items()
                }
                for jobs in (1, _MANY_JOBS)
            )
    goal = at_most(1.1)
    return [
        compared("pull of 200 paths, of nginx with the same files", single["ours"], single["same"], "s", goal),
        compared("pull of 200 paths, of nginx with `nix copy`'s", single["ours"], single["copied"], "s", goal),
        compared("the first, eight NARs at once", several["ours"], several["same"], "s", goal),
        compared("the second, eight NARs at once", several["ours"], several["copied"], "s", goal),
    ]


def pull(url: str, corpus: Corpus, *, jobs: int = 1) -> float:
    """Let real Nix substitute the closure into a store of its own, which is removed; the seconds."""
    store = NixStore(bench_folder() / "pulled")
    store.delete()
    store = NixStore(bench_folder() / "pulled")
    try:
        return store.pull(url, *corpus.first_roots, jobs=jobs)
    finally:
        store.delete()


def copy_cache(server: IcehouseServer, corpus: Corpus, folder: Path) -> None:
    """Make *folder* a copy of all that the server answers for the corpus."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    (folder / "nix-cache-info").write_bytes(server.read("nix-cache-info"))
    for fact in corpus.store.closure(*corpus.first_roots):
        name = f"{fact.path.rpartition('/')[2][:32]}.narinfo"
        (folder / name).write_bytes(server.read(name))
        fetch_nar(server, fact.path, folder)

"""What icehouse is compared with, measured by itself: `nix copy` into a folder, a pull from nginx, nginx alone."""

from pathlib import Path

from bench.corpora import Corpus, bench_folder, make_chain_corpus, make_large_corpus, make_rebuild_corpus
from bench.load import measure_download, measure_requests
from bench.nginx import Nginx
from bench.nix_store import NixStore
from bench.processes import peak_memory_bytes
from bench.rounds import interleave

NIX_COPY_PARAMETERS = "compression=zstd&parallel-compression=true"


def file_cache(corpus: Corpus, name: str, *, second: bool = False) -> Path:
    """A folder with a half of *corpus* as `nix copy` lays it out, ready for nginx; copied once."""
    roots = corpus.second_roots if second else corpus.first_roots
    folder = bench_folder() / "file-caches" / f"{name}-{roots[0].rpartition('/')[2][:32]}"
    complete = folder.with_name(f"{folder.name}.complete")
    if not complete.exists():
        corpus.store.copy_to_file_cache(roots, folder, NIX_COPY_PARAMETERS)
        complete.touch()
    return folder


def pull_into_empty_store(url: str, roots: tuple[str, ...], *, jobs: int = 1, trusted_key: str | None = None) -> float:
    """Let real Nix substitute the closure of *roots* from *url* into a store of its own; the seconds."""
    store = NixStore(bench_folder() / "pulled")
    store.delete()
    store = NixStore(bench_folder() / "pulled")
    try:
        return store.pull(url, *roots, jobs=jobs, trusted_key=trusted_key)
    finally:
        store.delete()


def folder_bytes(folder: Path) -> int:
    """The bytes of all files below *folder*."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def read_closure(corpus: Corpus) -> None:
    """Bring the files of both halves into the page cache, so that the first measurement is like the later ones."""
    for fact in corpus.store.closure(*corpus.first_roots, *corpus.second_roots):
        place = corpus.store.physical(fact.path)
        for file in [place] if place.is_file() else place.rglob("*"):
            if file.is_file() and not file.is_symlink():
                file.read_bytes()


def measure_nix_copy() -> None:
    """How long `nix copy` takes to compress the rebuild corpus into a folder, and how large that is."""
    corpus = make_rebuild_corpus(bench_folder())
    read_closure(corpus)
    folder = bench_folder() / "scratch-cache"
    halves = {"first half": corpus.first_roots, "second half": corpus.second_roots}
    series = interleave(
        {
            name: lambda roots=roots: corpus.store.copy_to_file_cache(roots, folder, NIX_COPY_PARAMETERS)
            for name, roots in halves.items()
        }
    )
    for name, values in series.items():
        print(f"nix copy of the {name}: {values.median:.2f} s (spread {values.spread:.2f})")
    print(f"bytes of the cache: {folder_bytes(folder):,}")


def measure_nix_pull() -> None:
    """How long real Nix takes to pull 200 small paths from nginx."""
    corpus = make_chain_corpus(bench_folder())
    with Nginx(file_cache(corpus, "chain"), bench_folder() / "nginx") as nginx:
        series = interleave(
            {
                f"{jobs} at once": lambda jobs=jobs: pull_into_empty_store(nginx.url, corpus.first_roots, jobs=jobs)
                for jobs in (1, 8)
            }
        )
    for name, values in series.items():
        print(f"pull of 200 paths from nginx, {name}: {values.median:.2f} s (spread {values.spread:.2f})")


def compare_nginx_with_itself() -> None:
    """What nginx reaches here, twice under two names: the ratio shows how far ratios of this machine can be trusted."""
    corpus = make_large_corpus(bench_folder())
    folder = file_cache(corpus, "large")
    largest = max((folder / "nar").iterdir(), key=lambda file: file.stat().st_size)
    narinfos = [f"/{file.name}" for file in folder.glob("*.narinfo")]
    absent = [f"/{number:032}.narinfo" for number in range(1000)]
    with Nginx(folder, bench_folder() / "nginx") as one, Nginx(folder, bench_folder() / "nginx-2") as other:
        for title, paths in (("hits", narinfos), ("misses", absent)):
            series = interleave(
                {
                    server.url: lambda server=server, paths=paths: (
                        measure_requests(server.url, paths, connections=16, seconds=3, seed=1).per_second
                    )
                    for server in (one, other)
                }
            )
            medians = [values.median for values in series.values()]
            print(f"narinfo {title}: {medians[0]:,.0f} a second, ratio {medians[1] / medians[0]:.3f}")
        for connections in (1, 16):
            for discard in (False, True):
                series = interleave(
                    {
                        server.url: lambda server=server, connections=connections, discard=discard: measure_download(
                            f"{server.url}/nar/{largest.name}", connections=connections, discard=discard
                        )
                        for server in (one, other)
                    }
                )
                medians = [values.median for values in series.values()]
                client = "discarding" if discard else "reading"
                print(
                    f"download over {connections}, {client} client: {medians[0] / 1e9:.2f} GB/s, "
                    f"ratio {medians[1] / medians[0]:.3f}"
                )
        print(f"peak memory of nginx: {peak_memory_bytes(one.pid):,} bytes")

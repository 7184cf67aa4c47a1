"""What icehouse is compared with: binary caches that `nix copy` made, and nginx; also nginx beside itself."""

from pathlib import Path

from bench.corpora import Corpus, bench_folder, make_large_corpus
from bench.load import measure_download, measure_requests
from bench.nginx import Nginx
from bench.rounds import Series, interleave
from bench.table import Row, compared

NIX_COPY_PARAMETERS = "compression=zstd&parallel-compression=true"


def file_cache(corpus: Corpus, name: str) -> Path:
    """A folder with the first half of *corpus* as `nix copy` lays it out, ready for nginx; copied once."""
    roots = corpus.first_roots
    folder = bench_folder() / "file-caches" / f"{name}-{roots[0].rpartition('/')[2][:32]}"
    complete = folder.with_name(f"{folder.name}.complete")
    if not complete.exists():
        corpus.store.copy_to_file_cache(roots, folder, NIX_COPY_PARAMETERS)
        complete.touch()
    return folder


def folder_bytes(folder: Path) -> int:
    """The bytes of all files below *folder*."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def read_closure(corpus: Corpus) -> None:
    """Bring the files of both halves into the page cache, so that every measurement finds them there."""
    for fact in corpus.store.closure(*corpus.first_roots, *corpus.second_roots):
        place = corpus.store.physical(fact.path)
        for file in [place] if place.is_file() else place.rglob("*"):
            if file.is_file() and not file.is_symlink():
                file.read_bytes()


def compare_nginx_with_itself(rounds: int) -> list[Row]:
    """Two nginx that serve the same: how far their ratios are from 1 shows how far those of a run can be trusted."""
    folder = file_cache(make_large_corpus(bench_folder()), "large")
    largest = max((folder / "nar").iterdir(), key=lambda file: file.stat().st_size)
    narinfos = [f"/{file.name}" for file in folder.glob("*.narinfo")]
    with Nginx(folder, bench_folder() / "nginx") as one, Nginx(folder, bench_folder() / "nginx-2") as other:
        servers = {"one": one, "other": other}
        rates = interleave(
            {
                name: lambda server=server: (
                    measure_requests(server.url, narinfos, connections=16, seconds=3, seed=1).per_second
                )
                for name, server in servers.items()
            },
            rounds=rounds,
        )
        speeds = interleave(
            {
                name: lambda server=server: measure_download(f"{server.url}/nar/{largest.name}", connections=16)
                for name, server in servers.items()
            },
            rounds=rounds,
        )
    return [
        compared("nginx beside itself, hits", Series(rates["one"]), Series(rates["other"]), "/s"),
        compared("nginx beside itself, download over 16", Series(speeds["one"]), Series(speeds["other"]), "B/s"),
    ]

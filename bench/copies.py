"""`nix copy --to`, the push without our client: to us, and to nginx's WebDAV, which checks nothing."""

import shutil
import subprocess
import threading
from collections.abc import Callable

from bench.comparators import read_closure
from bench.corpora import bench_folder, make_rebuild_corpus, make_uploads_corpus
from bench.nginx import Nginx
from bench.processes import Finished, cpu_seconds, peak_memory_bytes, reset_peak_memory
from bench.rounds import Series, interleave
from bench.server import IcehouseServer
from bench.table import Row, at_most, compared, measured

_DEFAULT = ""
_ZSTD = "?compression=zstd&parallel-compression=true"
_PEAK_BYTES = 300e6
_ROUNDS_OF_XZ = 1  # one takes minutes, of which nearly all is Nix's compression


def measure_copies(rounds: int) -> list[Row]:
    """A closure copied with Nix's default compression, which is xz, and with zstd; then four large NARs at once."""
    rows: list[Row] = []
    for title, parameters, count in (("xz, the default", _DEFAULT, _ROUNDS_OF_XZ), ("zstd", _ZSTD, rounds)):
        server_seconds: list[float] = []
        runs = interleave(
            {"ours": _copy_to_us(parameters, server_seconds), "nginx": _copy_to_nginx(parameters)},
            rounds=count,
            warm_up=False,
        )
        ours, theirs = (Series([done.seconds for done in runs[name]]) for name in ("ours", "nginx"))
        used = Series([done.cpu_seconds + more for done, more in zip(runs["ours"], server_seconds, strict=True)])
        used_beside = Series([done.cpu_seconds for done in runs["nginx"]])
        goal = at_most(1.3) if parameters == _DEFAULT else None
        rows += [
            compared(f"`nix copy` of a closure as {title}, of that to nginx", ours, theirs, "s", goal),
            compared("… processor time of Nix and our server, of Nix's to nginx", used, used_beside, "s"),
            measured("… of which our server's", Series(server_seconds).median, "s"),
        ]
    return [*rows, _measure_four()]


def _copy_to_us(parameters: str, server_seconds: list[float]) -> Callable[[], Finished]:
    corpus = make_rebuild_corpus(bench_folder())

    def copy() -> Finished:
        with IcehouseServer(bench_folder() / "server") as server:
            read_closure(corpus)
            before = cpu_seconds(server.pid)
            with server.netrc() as netrc:
                done = corpus.store.copy_to(f"{server.cache_url}{parameters}", *corpus.first_roots, netrc=netrc)
            server_seconds.append(cpu_seconds(server.pid) - before)
            return done

    return copy


def _copy_to_nginx(parameters: str) -> Callable[[], Finished]:
    corpus = make_rebuild_corpus(bench_folder())

    def copy() -> Finished:
        folder = bench_folder() / "scratch-cache"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        (folder / "nix-cache-info").write_text("StoreDir: /nix/store\n")
        subprocess.run(["chmod", "777", str(folder)], check=True)
        with Nginx(folder, bench_folder() / "nginx") as nginx:
            read_closure(corpus)
            return corpus.store.copy_to(f"{nginx.url}{parameters}", *corpus.first_roots)

    return copy


def _measure_four() -> Row:
    corpus = make_uploads_corpus(bench_folder())
    with IcehouseServer(bench_folder() / "server") as server, server.netrc() as netrc:
        reset_peak_memory(server.pid)
        clients = [
            threading.Thread(
                target=corpus.store.copy_to, args=(f"{server.cache_url}{_ZSTD}", root), kwargs={"netrc": netrc}
            )
            for root in corpus.first_roots
        ]
        for client in clients:
            client.start()
        for client in clients:
            client.join()
        peak = peak_memory_bytes(server.pid)
        for root in corpus.first_roots:
            server.read(f"{root.rpartition('/')[2][:32]}.narinfo")  # fails unless it came
    return measured(
        "peak memory of the server, four `nix copy` of 1 GiB at once", peak, "B", at_most(_PEAK_BYTES, "300 MB")
    )

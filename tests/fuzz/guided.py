"""A campaign that is led by coverage: atheris, which drives a target by libFuzzer. A program of its own.

``python -m tests.fuzz.guided TARGET SECONDS SEED`` prints libFuzzer's report; its exit code is 0 if there was no find.
An input that crashes, hangs for `TIMEOUT_SECONDS` or takes more than `MAX_RSS_MB` is put into the corpus, and so is,
with ``--keep``, each input that reaches what no other does.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

from tests.fuzz.corpus import CORPUS, first_inputs, keep

MAX_RSS_MB: Final = 700
TIMEOUT_SECONDS: Final = 10
MAX_INPUT_BYTES: Final = 4096


def run_campaign(target: str, seconds: int, seed: int, *, keeps: bool) -> int:
    """Lead *target* by coverage in a process of its own; give its exit code."""
    with tempfile.TemporaryDirectory() as scratch:
        first, new, merged = (Path(scratch) / name for name in ("first", "new", "merged"))
        for folder in (first, new, merged):
            folder.mkdir()
        for index, data in enumerate(first_inputs(target)):
            (first / str(index)).write_bytes(data)
        folder = CORPUS / target
        folder.mkdir(exist_ok=True)
        code = _run_child(
            target,
            f"-max_total_time={seconds}",
            f"-seed={seed}",
            f"-artifact_prefix={folder}/",
            str(new),
            str(first),
        )
        if keeps and not code:
            code = _run_child(target, "-set_cover_merge=1", str(merged), str(first), str(new))
            known = set(first_inputs(target))
            for path in merged.iterdir():
                data = path.read_bytes()
                if data not in known:
                    keep(target, data)
    with contextlib.suppress(OSError):
        folder.rmdir()  # if nothing is in it
    return code


def _run_child(target: str, *arguments: str) -> int:
    limits = [f"-rss_limit_mb={MAX_RSS_MB}", f"-timeout={TIMEOUT_SECONDS}", f"-max_len={MAX_INPUT_BYTES}"]
    command = [sys.executable, "-m", "tests.fuzz.guided_child", target, *limits, "-verbosity=0", *arguments]
    return subprocess.run(command, check=False).returncode


def main(arguments: list[str]) -> int:
    """Run the campaign."""
    target, seconds, seed, *rest = arguments
    return run_campaign(target, int(seconds), int(seed), keeps=rest == ["--keep"])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

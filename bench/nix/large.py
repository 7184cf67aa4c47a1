"""Write a file of random, always equal bytes, in which every MiB has a few lines of text that name store paths."""

import random
import sys
from pathlib import Path

LINES = 32
BLOCK_BYTES = 1 << 20


def main() -> None:
    """Write the file: its size, its name and the store paths are the arguments."""
    size = int(sys.argv[1])
    names = sys.argv[3:]
    text = "".join(f"{names[number % len(names)]}/lib/{number}\n" for number in range(LINES)).encode()
    source = random.Random(20)
    with Path(sys.argv[2]).open("wb") as file:
        while size > 0:
            block = (source.randbytes(BLOCK_BYTES - len(text)) + text)[-size:]
            file.write(block)
            size -= len(block)


main()

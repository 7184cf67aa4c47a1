"""What each cache of the security tests holds."""

from __future__ import annotations

import hashlib
from typing import Final

from icehouse.nix import nix32
from icehouse.nix.nar_write import Directory, Regular, write_nar
from icehouse.nix.narinfo import render_narinfo
from tests.services.local_issuer import sign
from tests.services.publishing import Upload, cut, nar_of
from tests.services.uploading import NarUpload

HELLO: Final = f"{'1' * 32}-hello-1.0"
STOCK_PATH: Final = f"{'2' * 32}-stock-1.0"
ABSENT: Final = "3" * 32
BUILD_ID: Final = "ab" + "cd" * 19
DERIVATION: Final = f"{'4' * 32}-hello-1.0.drv"
REALISATION_FILE: Final = f"realisations/sha256:{'7' * 64}!out.doi"
DERIVATION_FILE: Final = f"build-trace-v2/{DERIVATION}/out.doi"
LOG: Final = b"compiling\n"

_DEBUG: Final = Directory({b"ab": Directory({b"cd" * 19 + b".debug": Regular(b"\x7fELF debug")})})
NAR: Final = b"".join(
    write_nar(
        Directory(
            {
                b"bin": Directory({b"run": Regular(b"\x7fELF", executable=True)}),
                b"lib": Directory({b"debug": Directory({b".build-id": _DEBUG})}),
            }
        )
    )
)
"""Of `HELLO`."""

NAR_LETTERS: Final = nix32.encode(hashlib.sha256(NAR).digest())
PACK: Final = Upload.of(cut(NAR)).render()
STOCK_FILE: Final = NarUpload.make(nar_of(b"sent by stock Nix"))
STOCK_NARINFO: Final = render_narinfo(STOCK_FILE.narinfo(STOCK_PATH)).encode()

TRUSTED: Final = "http://127.0.0.1:9"
"""An issuer that caches trust, and that does not answer."""

TRUST_RULE: Final = (
    b'{"issuer": "%s", "audience": "us", "claims": {"sub": ["job"]}, "permissions": ["push"]}' % TRUSTED.encode()
)
FORGED_IDENTITY: Final = sign(
    {"iss": TRUSTED, "aud": "us", "sub": "job", "exp": 4_000_000_300, "iat": 4_000_000_000, "nbf": 4_000_000_000}
)
"""Of that issuer, by a key that it does not have."""

"""The post-build hook: a script for `sh`, since Nix waits for it after each build."""

import re
from pathlib import Path
from typing import Final

from icehouse.errors import InvalidFormat

SCRIPT_NAME: Final = "icehouse-post-build-hook"
"""Beside nix.conf."""

_PLAIN_FOLDER: Final = re.compile(r"/[A-Za-z0-9._/+@-]{1,1000}")
_SCRIPT: Final = """\
#!/bin/sh
# Written by `icehouse hook install`. Tells the Icehouse daemon what Nix built. Whatever happens, the build goes on.
spool='{spool}'
PATH="$PATH:/usr/bin:/bin:/run/current-system/sw/bin"
umask 022
derivation="${{DRV_PATH##*/}}"
name="${{derivation%%-*}}.$$"
{{
  {{ printf '%s\\n' "$DRV_PATH" "$OUT_PATHS" > "$spool/tmp/$name" && mv -fT "$spool/tmp/$name" "$spool/new/$name"; }} ||
    rm -f "$spool/tmp/$name"
}} > /dev/null 2>&1 < /dev/null
exit 0
"""


def render_hook(spool: Path) -> str:
    """The script that puts what was built into *spool*.

    Raises:
        InvalidFormat: the folder's name has letters that mean something else in a script or in nix.conf.
    """
    if _PLAIN_FOLDER.fullmatch(str(spool)) is None:
        raise InvalidFormat(f"spool {str(spool)!r}: expected a whole path of letters, digits and . _ / + @ -")
    return _SCRIPT.format(spool=spool)

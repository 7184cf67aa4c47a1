"""A real Nix with a store of its own, for tests that need paths that Nix knows."""

import subprocess
from dataclasses import dataclass
from pathlib import Path

CONFIGURATION = """\
build-users-group =
sandbox = false
substitute = false
substituters =
"""

CLOSURE = """
let
  make = name: script: derivation {
    inherit name; system = builtins.currentSystem; builder = "/bin/sh"; args = [ "-c" script ]; PATH = "/usr/bin:/bin";
  };
in rec {
  base = make "base" "echo base > $out";
  middle = make "middle" "mkdir $out; echo ${base} > $out/to-base; ln -s $out/to-base $out/link";
  top = make "top" "mkdir -p $out/bin; echo ${middle} ${base} $out > $out/bin/top; chmod +x $out/bin/top";
}
"""


def store_settings(root: Path) -> dict[str, str]:
    """The environment that tells Nix to keep its store in *root*.

    Its store directory is where it really lies: any other would be built in only with namespaces, which not every
    machine gives.
    """
    return {
        "NIX_STORE_DIR": f"{root}/nix/store",
        "NIX_STATE_DIR": f"{root}/nix/var/nix",
        "NIX_LOG_DIR": f"{root}/nix/var/log/nix",
    }


@dataclass(frozen=True)
class PrivateNix:
    """A Nix whose store lies in a folder of its own, and whose environment has its `store_settings`."""

    root: Path
    environment: dict[str, str]

    def run(self, *command: str) -> str:
        done = subprocess.run(command, env=self.environment, check=False, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def build(self, expression: str, attribute: str) -> str:
        """Build an attribute of an expression; the full path of its output."""
        return self.run(
            "nix-build", "--no-out-link", "--store", str(self.root), "-E", expression, "-A", attribute
        ).splitlines()[-1]

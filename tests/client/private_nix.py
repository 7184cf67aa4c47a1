"""A real Nix with a store of its own, for tests that need paths that Nix knows."""

import subprocess
from dataclasses import dataclass
from pathlib import Path

CONFIGURATION = """\
build-users-group =
sandbox = true
sandbox-paths = /usr /bin /lib /lib64
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


@dataclass(frozen=True)
class PrivateNix:
    """A Nix whose store lies in a folder of its own."""

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

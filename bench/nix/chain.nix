# A closure of many small store paths: each refers to up to three later ones, and the first reaches all of them.
{ manifest }:
let
  inputs = builtins.fromJSON (builtins.readFile manifest);
  count = inputs.chain_paths;
  text = builtins.path {
    path = inputs.sources."lua5.4".file;
    name = "text";
  };
  link = number: derivation {
    name = "link-${toString number}";
    system = "x86_64-linux";
    builder = "/bin/bash";
    args = [ "-eu" ./chain.sh ];
    PATH = "/usr/bin:/bin";
    inherit text;
    # 0.5 to 190 KiB, always the same for one number.
    bytes = 512 + 1999 * (number * 7919 - (number * 7919 / 97) * 97);
    skipped = 4096 * number;
    references = map (builtins.elemAt links)
      (builtins.filter (other: other < count) [ (2 * number + 1) (2 * number + 2) (number + 10) ]);
  };
  links = builtins.genList link count;
in
builtins.head links

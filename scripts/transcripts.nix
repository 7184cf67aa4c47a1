# What the transcripts build: three layers of text, which come out the same on every machine.
let
  make = name: script: derivation {
    inherit name;
    system = builtins.currentSystem;
    builder = "/bin/sh";
    PATH = "/usr/bin:/bin";
    args = [ "-euc" script ];
  };
in
rec {
  words = make "words-1.0" "seq 200000 > $out";
  greet = make "greet-1.0" ''
    mkdir -p $out/bin
    printf '#!/bin/sh\nhead -n 1 ${words}\n' > $out/bin/greet
    chmod +x $out/bin/greet
  '';
  site = make "site-1.0" "mkdir $out; echo ${greet} > $out/index.html; seq 300000 400000 > $out/list";
  extra = make "extra-1.0" "echo ${words} extra > $out";
  draft = make "draft-1.0" "echo ${greet} draft > $out";
  nightly = make "nightly-1.0" "echo ${greet} nightly > $out";
  release = make "release-1.0" "echo ${greet} release > $out";
}

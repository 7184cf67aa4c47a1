# The demo's closure: a runtime, and programs that name it in their files, as packages name their libraries.
# Another `generation` gives every path another store hash, and changes nothing else: that is a rebuild.
{ generation }:
let
  build = name: script: inputs: derivation (inputs // {
    inherit name generation;
    system = builtins.currentSystem;
    builder = "/bin/sh";
    PATH = "/usr/bin:/bin";
    args = [ "-euc" script ];
  });

  runtime = build "runtime-1.0" ''
    mkdir -p $out/lib
    cp -rL /usr/lib/python3.* $out/lib/
    find $out -name __pycache__ -prune -exec rm -rf {} +
    echo "prefix=$out" > $out/lib/runtime.pc
  '' { };

  # Each has a slice of the machine's own small programs, and scripts and lists that name the runtime and itself.
  program = index: build "program-${toString index}-1.0" ''
    mkdir -p $out/bin $out/share
    count=0
    for file in /usr/bin/*; do
      count=$((count + 1))
      if [ $((count % 8)) = $index ] && [ -n "$(find -L "$file" -maxdepth 0 -type f -size -300k)" ]; then
        cp "$file" $out/share/
      fi
    done
    for n in 1 2 3 4 5 6 7 8 9 10; do
      printf '#!/bin/sh\nPYTHONPATH=%s/lib exec %s/share/tool-%s "$@"\n' $runtime $out $n > $out/bin/tool-$n
      chmod +x $out/bin/tool-$n
    done
    for file in $out/share/*; do echo "$file needs $runtime/lib"; done > $out/share/needs.txt
  '' { inherit runtime; index = toString index; };
in
build "everything-1.0" ''
  mkdir $out
  for program in $programs; do name=''${program##*/}; ln -s $program $out/''${name#*-}; done
'' { programs = builtins.genList program 8; }

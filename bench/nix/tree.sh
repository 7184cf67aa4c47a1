# The files of one .deb, with a small file that names store paths and a wrapper for each program.
dpkg-deb -x "$src" "$out"
mkdir -p "$out/nix-support"
printf '%s\n' $names >"$out/nix-support/propagated-build-inputs"

for folder in usr/bin bin; do
  for program in "$out/$folder"/*; do
    if [ -f "$program" ] && [ ! -L "$program" ]; then
      mkdir -p "$out/wrappers"
      {
        printf '#!/bin/sh\n'
        printf 'exec %s --library-path %s %s "$@"\n' "$libc/lib/ld-linux-x86-64.so.2" "$libc/lib" "$program"
      } >"$out/wrappers/${program##*/}"
      chmod +x "$out/wrappers/${program##*/}"
    fi
  done
done

# Builds one small C package against the libc of the store, as a distribution of Nix packages would, and reproducibly.
tools=$PWD/tools
mkdir -p source "$tools" "$out" "$doc"
tar -xf "$src" -C source --strip-components=1
cd source

# The compiler adds what points into the store, whatever a package's makefile does with CFLAGS and LDFLAGS.
compile="-isystem $libc/include -ffile-prefix-map=$PWD=/source"
link="-B$libc/lib -L$libc/lib -Wl,-rpath,$out/lib -Wl,-rpath,$libc/lib"
link="$link -Wl,--dynamic-linker=$libc/lib/ld-linux-x86-64.so.2 -Wl,--build-id=none"
for dependency in $dependencies; do
  compile="$compile -isystem $dependency/include"
  link="$link -L$dependency/lib -Wl,-rpath,$dependency/lib"
done
printf '#!/bin/sh\nexec /usr/bin/gcc %s %s "$@"\n' "$compile" "$link" >"$tools/gcc"
chmod +x "$tools/gcc"
ln -s gcc "$tools/cc"
export PATH=$tools:$PATH CC=gcc CFLAGS=-O2 HOME=/homeless ARFLAGS=crD

case $how in
  configure)
    # shellcheck disable=SC2086 # A list of flags.
    ./configure --prefix="$out" --disable-dependency-tracking $flags
    make
    make install
    ;;
  plain-configure)
    ./configure --prefix="$out"
    make
    make install
    ;;
  make)
    make CC=gcc PREFIX="$out" MANDIR="$out/share/man" prefix="$out"
    make CC=gcc PREFIX="$out" MANDIR="$out/share/man" prefix="$out" install
    ;;
  lua)
    make CC="gcc -std=gnu99" linux
    make INSTALL_TOP="$out" install
    ;;
esac

for kind in man info doc; do
  for folder in "$out/$kind" "$out/share/$kind"; do
    if [ -d "$folder" ]; then
      mkdir -p "$doc/share"
      mv "$folder" "$doc/share/$kind"
    fi
  done
done
find "$out" -name '*.la' -delete

if [ "$wrapped" ]; then
  for program in "$out"/bin/*; do
    if [ -f "$program" ] && [ ! -L "$program" ]; then
      base=${program##*/}
      mv "$program" "$out/bin/.$base-wrapped"
      {
        printf '#!/bin/sh\n'
        printf 'export PATH=%s/bin${PATH:+:$PATH}\n' "$libc"
        printf 'exec %s "$@"\n' "$out/bin/.$base-wrapped"
      } >"$program"
      chmod +x "$program"
    fi
  done
fi
mkdir -p "$out/nix-support" "$doc/nix-support"
printf '%s ' $dependencies >"$out/nix-support/propagated-build-inputs"
printf '%s\n' "$out" >"$doc/nix-support/documents"

#!/usr/bin/env bash
# Makes every vector of this folder anew with the Nix in PATH; README.md says what each one is.
# Usage: tests/vectors/nix/make_vectors.sh
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
trap 'chmod -R u+w "$work"; rm -rf "$work"' EXIT
export HOME=$work/home LC_ALL=C
export NIX_CONFIG='experimental-features = nix-command flakes ca-derivations
substituters =
sandbox-paths = /bin /lib /lib64 /usr
build-users-group ='
store=$work/store
nixs() { "$1" --store "$store" "${@:2}"; }
mkdir -p "$HOME" "$here"/{nars,narinfos,keys,path-info}

# The same trees each time: times do not enter NARs, but modes do.
tree=$work/tree
mkdir -p "$tree/empty directory" "$tree/nested/a/b/c"
printf 'seven b' >"$tree/seven"
printf 'eight by' >"$tree/eight"
printf 'nine byte' >"$tree/nine"
: >"$tree/empty"
printf '#!/bin/sh\necho hello\n' >"$tree/run"
chmod 755 "$tree/run"
printf 'capital' >"$tree/B"
printf 'small' >"$tree/a"
printf 'dash' >"$tree/a-b"
printf 'slash sorts after dash' >"$tree/nested/a/b/c/file"
printf 'newline' >"$tree/"$'new\nline'
printf 'not utf-8' >"$tree/"$'\xff\xfe'
ln -s run "$tree/link"
ln -s /nonexistent/somewhere/far "$tree/dangling"

nix-store --dump "$tree" >"$here/nars/tree.nar"
nix-store --dump "$tree/empty" >"$here/nars/empty_file.nar"
nix-store --dump "$tree/run" >"$here/nars/executable.nar"
nix-store --dump "$tree/link" >"$here/nars/symlink.nar"
nix-store --dump "$tree/empty directory" >"$here/nars/empty_directory.nar"

{
  echo "["
  separator=""
  for algorithm in md5 sha1 sha256 sha512; do
    for file in empty seven run; do
      printf '%s  {"algorithm": "%s", "file": "%s", "hex": "%s", "nix32": "%s", "sri": "%s"}' "$separator" "$algorithm" "$file" \
        "$(nix hash file --base16 --type $algorithm "$tree/$file")" \
        "$(nix hash file --base32 --type $algorithm "$tree/$file")" \
        "$(nix hash file --sri --type $algorithm "$tree/$file")"
      separator=$',\n'
    done
  done
  printf '\n]\n'
} >"$here/hashes.json"

# Content-addressed paths of every kind that 2.8 makes: sources, fixed outputs, texts with and without references, and
# a path with a self reference.
mkdir -p "$work/expressions"
cat >"$work/expressions/text.nix" <<'NIX'
let plain = builtins.toFile "plain.txt" "nothing in here\n";
in builtins.toFile "with-reference.txt" "see ${plain}\n"
NIX
cat >"$work/expressions/refers.nix" <<'NIX'
let text = builtins.toFile "plain.txt" "nothing in here\n";
in derivation {
  name = "refers-1.0"; system = builtins.currentSystem; builder = "/bin/sh";
  args = [ "-c" "echo self $out; echo ${text}; echo $out ${text} > $out" ];
}
NIX
nixs nix-store --add "$tree" >/dev/null
nixs nix-store --add-fixed sha256 "$tree/seven" >/dev/null
nixs nix-store --add-fixed sha1 "$tree/eight" >/dev/null
nixs nix-store --add-fixed --recursive sha1 "$tree/nested" >/dev/null
nixs nix-store --add-fixed --recursive sha512 "$tree/run" >/dev/null
nixs nix-store --add-fixed md5 "$tree/nine" >/dev/null
nixs nix-instantiate --eval --strict --read-write-mode "$work/expressions/text.nix" >/dev/null
drv=$(nixs nix-instantiate "$work/expressions/refers.nix" 2>/dev/null)
out=$(nixs nix-store -r "$drv" 2>/dev/null)
nixs nix store make-content-addressed "$out" >/dev/null
nixs nix path-info --all --json >"$here/path-info/nix-2.8.json"
unknown=/nix/store/00000000000000000000000000000000-unknown
nixs nix path-info --offline --json "$out" "$unknown" >"$here/path-info/nix-2.8-unknown.json"

rm -f "$here"/keys/* "$here"/narinfos/*
nix-store --generate-binary-cache-key cache.example-1 "$here/keys/secret" "$here/keys/public"
nixs nix copy --all --to "file://$work/cache?compression=none&write-nar-listing=true&secret-key=$here/keys/secret"
cp "$work"/cache/*.narinfo "$work"/cache/*.ls "$work/cache/nix-cache-info" "$here/narinfos/"
for listing in "$here"/narinfos/*.ls; do
  narinfo=${listing%.ls}.narinfo
  cp "$work/cache/$(sed -n 's/^URL: //p' "$narinfo")" "${listing%.ls}.nar"
done
nix --version >"$here/made-by"

# One path that links to all others, as a user environment does; the root of the closure.
mkdir -p "$out/bin" "$out/share"
for package in $packages; do
  for program in "$package"/bin/*; do
    if [ -x "$program" ]; then
      ln -sf "$program" "$out/bin/"
    fi
  done
  printf '%s\n' "$package" >>"$out/manifest"
done
for tree in $trees; do
  name=${tree##*/}
  ln -s "$tree" "$out/share/${name#*-}"
done

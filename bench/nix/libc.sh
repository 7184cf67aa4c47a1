# A store path with Debian's libc: loader, libraries, start files, headers and gconv modules, all naming it.
tree=$PWD/tree
dpkg-deb -x "$runtime" "$tree"
dpkg-deb -x "$development" "$tree"
triplet=x86_64-linux-gnu
mkdir -p "$out/lib" "$out/include"

cp -a "$tree/lib/$triplet/." "$out/lib/"
cp -a "$tree/usr/lib/$triplet/." "$out/lib/"
cp -a "$tree/usr/include/." "$out/include/"
cp -a "$out/include/$triplet/." "$out/include/"
rm -rf "${out:?}/include/$triplet"

# Linker scripts and other texts name Debian's folders.
grep -rlIE "/lib(64|/$triplet)/" "$out/lib" | while read -r file; do
  sed -i -E "s#(/usr)?/lib(/$triplet|64)/#$out/lib/#g" "$file"
done
find "$out" -type l | while read -r link; do
  target=$(readlink "$link")
  case $target in
    /*) ln -sfn "$out/lib/${target##*/}" "$link" ;;
  esac
done
test -x "$out/lib/ld-linux-x86-64.so.2"

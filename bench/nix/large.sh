# A large file that no compressor makes smaller, with many store hashes in it.
mkdir -p "$out"
/usr/bin/python3 "$src" "$bytes" "$out/large" $names

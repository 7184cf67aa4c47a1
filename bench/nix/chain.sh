# A folder with a slice of real text and the names of other store paths.
mkdir -p "$out/share"
gzip -dc "$text" | tail -c "+$((skipped + 1))" | head -c "$bytes" >"$out/share/text" || true
printf '%s\n' $references >"$out/share/references"
ln -s text "$out/share/link"

# Two closures that differ by one input of their copies of libc, so that every store path of the second is new and its
# contents are those of the first but for store hashes. `manifest` names the downloaded sources and .debs.
{ manifest }:
let
  inputs = builtins.fromJSON (builtins.readFile manifest);

  fetched = name: entry: builtins.path {
    path = entry.file;
    inherit name;
  };
  source = name: fetched "${name}-source" inputs.sources.${name};
  deb = name: fetched "${name}-deb" inputs.debs.${name};

  build = builder: attributes: derivation ({
    system = "x86_64-linux";
    builder = "/bin/bash";
    args = [ "-eu" builder ];
    PATH = "/usr/bin:/bin";
    LC_ALL = "C";
    TZ = "UTC";
    SOURCE_DATE_EPOCH = "946684800";
  } // attributes);

  half = variant: rec {
    libc = build ./libc.sh {
      name = "libc-${inputs.debs.libc6.version}";
      inherit variant; # The builder does not read it: only the store path depends on it.
      runtime = deb "libc6";
      development = deb "libc6-dev";
    };

    package = name: attributes: build ./package.sh ({
      name = "${name}-${inputs.sources.${name}.version}";
      outputs = [ "out" "doc" ];
      src = source name;
      inherit libc;
      dependencies = [ ];
      how = "configure";
      flags = "";
      wrapped = false;
    } // attributes);

    packages = rec {
      bzip2 = package "bzip2" { how = "make"; };
      diffutils = package "diffutils" { };
      ed = package "ed" { };
      file = package "file" { dependencies = [ zlib ]; flags = "--disable-libseccomp --disable-bzlib --disable-xzlib"; };
      gzip = package "gzip" { wrapped = true; };
      # Without that flag gcc copies $out by 16-byte constants, one of which holds the last letter of the hash alone.
      hello = package "hello" { wrapped = true; flags = "CFLAGS=-fno-builtin"; };
      libffi = package "libffi" { };
      libpng = package "libpng1.6" { dependencies = [ zlib ]; };
      lua = package "lua5.4" { how = "lua"; wrapped = true; };
      lz4 = package "lz4" { how = "make"; };
      lzo = package "lzo2" { flags = "--enable-shared"; };
      mawk = package "mawk" { };
      patch = package "patch" { dependencies = [ ed ]; wrapped = true; };
      pcre2 = package "pcre2" { dependencies = [ zlib bzip2 ]; flags = "--enable-pcre2grep-libz --enable-pcre2grep-libbz2"; };
      sed = package "sed" { };
      tree = package "tree" { how = "make"; };
      zlib = package "zlib" { how = "plain-configure"; };
    };

    # Trees that no compiler made: their bytes come from Debian, but each names what it would run with.
    tree = name: build ./tree.sh {
      name = "${name}-${inputs.debs.${name}.version}";
      src = deb name;
      inherit libc;
      names = [ packages.mawk packages.sed packages.zlib ];
    };
    trees = map tree inputs.trees;

    profile = build ./profile.sh {
      name = "profile";
      packages = builtins.attrValues packages ++ map (package: package.doc) (builtins.attrValues packages);
      inherit trees;
    };

    large = build ./large.sh {
      name = "large";
      src = ./large.py;
      names = [ libc packages.zlib packages.lua packages.mawk ];
      bytes = inputs.large_bytes;
    };
  };
in
{
  first = { inherit (half "first") profile large; };
  second = { inherit (half "second") profile large; };
}

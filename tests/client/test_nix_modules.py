"""The modules for NixOS and home-manager, evaluated by a real Nix with as little of a module system as they need."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.client.private_nix import PrivateNix

MODULES = Path(__file__).parent.parent.parent / "nix"

SYSTEM = """
let
  merge = a: b: a // builtins.mapAttrs (name: value:
    if a ? ${name} && builtins.isAttrs value && builtins.isAttrs a.${name} then merge a.${name} value else value) b;
  types = rec { package = "package"; str = "str"; listOf = type: type; nullOr = type: type; };
  lib = {
    inherit types;
    mkOption = option: option;
    mkEnableOption = text: { default = false; description = text; };
    mkIf = condition: value: if condition then value else { };
    mkMerge = builtins.foldl' merge { };
    optionalAttrs = condition: value: if condition then value else { };
    concatMapStringsSep = separator: f: list: builtins.concatStringsSep separator (map f list);
    escapeShellArg = text: "'" + builtins.replaceStrings [ "'" ] [ "'\\\\''" ] text + "'";
  };
  pkgs.runCommand = name: environment: script: script;
  # Defaults of the options, and over them what the user sets.
  defaults = option: if option ? description then option.default or null else builtins.mapAttrs (_: defaults) option;
  evaluate = file: user: let
    module = import file { inherit lib pkgs config; };
    config = merge { services.icehouse = defaults module.options.services.icehouse; nix.package = "nix";
      home.profileDirectory = "/profile"; } user;
  in module.config;
in evaluate
"""


def evaluate(nix: PrivateNix, module: str, user: str) -> dict[str, Any]:
    expression = f"({SYSTEM}) {MODULES / module} {{ services.icehouse = {user}; }}"
    text = nix.run("nix-instantiate", "--store", str(nix.root), "--eval", "--strict", "--json", "-E", expression)
    return json.loads(text)


def test_nothing_is_set_up_that_was_not_enabled(nix: PrivateNix) -> None:
    assert evaluate(nix, "nixos-module.nix", '{ package = "/p"; }') == {}
    assert evaluate(nix, "home-manager-module.nix", '{ package = "/p"; }') == {}


def test_nixos_runs_the_server_as_a_user_of_its_own(nix: PrivateNix) -> None:
    user = '{ package = "/p"; server = { enable = true; arguments = [ "--host" "it\'s" ]; }; }'
    service = evaluate(nix, "nixos-module.nix", user)["systemd"]["services"]["icehouse"]["serviceConfig"]
    assert service["ExecStart"] == r"/p/bin/icehouse serve --data-dir /var/lib/icehouse '--host' 'it'\''s'"
    assert (service["User"], service["StateDirectory"]) == ("icehouse", "icehouse")


@pytest.mark.parametrize("file", [None, "/run/secrets/icehouse"])
def test_nixos_runs_the_daemon_and_the_hook_that_fills_its_spool(nix: PrivateNix, file: str | None) -> None:
    more = "" if file is None else f'environmentFile = "{file}";'
    user = f'{{ package = "/p"; daemon = {{ enable = true; caches = [ "https://c.example/team" ]; {more} }}; }}'
    config = evaluate(nix, "nixos-module.nix", user)
    service = config["systemd"]["services"]["icehouse-push"]
    command = "/p/bin/icehouse daemon run --spool /var/spool/icehouse 'https://c.example/team'"
    assert service["serviceConfig"]["ExecStart"] == command
    assert service["serviceConfig"].get("EnvironmentFile") == file
    assert "d /var/spool/icehouse/new 0700 icehouse-push icehouse-push" in config["systemd"]["tmpfiles"]["rules"]
    assert "hook install --print script --spool /var/spool/icehouse" in config["nix"]["settings"]["post-build-hook"]


def test_home_manager_watches_the_store(nix: PrivateNix) -> None:
    user = '{ enable = true; package = "/p"; cache = "https://c.example/team"; }'
    service = evaluate(nix, "home-manager-module.nix", user)["systemd"]["user"]["services"]["icehouse-watch-store"]
    assert service["Service"]["ExecStart"] == "/p/bin/icehouse watch-store 'https://c.example/team'"

# A NixOS module: the server, and the daemon that pushes what this machine builds.
{ config, lib, pkgs, ... }:
let
  cfg = config.services.icehouse;
  inherit (lib) mkEnableOption mkIf mkMerge mkOption types;
  words = lib.concatMapStringsSep " " lib.escapeShellArg;
  spool = "/var/spool/icehouse";
  hook = pkgs.runCommand "icehouse-post-build-hook" { } ''
    ${cfg.package}/bin/icehouse hook install --print script --spool ${spool} > $out
    chmod +x $out
  '';
in
{
  options.services.icehouse = {
    package = mkOption {
      type = types.package;
      description = "The package with bin/icehouse.";
    };
    server = {
      enable = mkEnableOption "the Icehouse binary cache server";
      arguments = mkOption {
        type = types.listOf types.str;
        default = [ ];
        example = [ "--public-url" "https://cache.example.org" ];
        description = "Options of `icehouse serve`.";
      };
    };
    daemon = {
      enable = mkEnableOption "pushing what this machine builds";
      caches = mkOption {
        type = types.listOf types.str;
        default = [ ];
        example = [ "https://cache.example.org/team" ];
        description = "URLs of the caches to push to.";
      };
      environmentFile = mkOption {
        type = types.nullOr types.str;
        default = null;
        description = "A file outside of the Nix store with ICEHOUSE_URL= and ICEHOUSE_TOKEN=.";
      };
    };
  };

  config = mkMerge [
    (mkIf cfg.server.enable {
      users.users.icehouse = { isSystemUser = true; group = "icehouse"; };
      users.groups.icehouse = { };
      systemd.services.icehouse = {
        description = "Icehouse binary cache";
        wantedBy = [ "multi-user.target" ];
        after = [ "network.target" ];
        serviceConfig = {
          ExecStart = "${cfg.package}/bin/icehouse serve --data-dir /var/lib/icehouse ${words cfg.server.arguments}";
          User = "icehouse";
          StateDirectory = "icehouse";
          StateDirectoryMode = "0700";
          Restart = "on-failure";
          ProtectSystem = "strict";
          ProtectHome = true;
          PrivateTmp = true;
          NoNewPrivileges = true;
        };
      };
    })
    (mkIf cfg.daemon.enable {
      nix.settings.post-build-hook = hook;
      users.users.icehouse-push = { isSystemUser = true; group = "icehouse-push"; };
      users.groups.icehouse-push = { };
      systemd.tmpfiles.rules = [
        "d ${spool} 0755 root root"
        "d ${spool}/tmp 0700 root root"
        "d ${spool}/new 0700 icehouse-push icehouse-push"
      ];
      systemd.services.icehouse-push = {
        description = "Push what is built to Icehouse caches";
        wantedBy = [ "multi-user.target" ];
        wants = [ "network-online.target" ];
        after = [ "network-online.target" ];
        path = [ config.nix.package ];
        environment = {
          HOME = "/var/lib/icehouse-push";
          ICEHOUSE_DAEMON_DIR = "/var/lib/icehouse-push";
        };
        serviceConfig = {
          Type = "notify";
          WatchdogSec = "2min";
          ExecStart = "${cfg.package}/bin/icehouse daemon run --spool ${spool} ${words cfg.daemon.caches}";
          User = "icehouse-push";
          StateDirectory = "icehouse-push";
          StateDirectoryMode = "0700";
          Restart = "on-failure";
          TimeoutStopSec = 60;
        } // lib.optionalAttrs (cfg.daemon.environmentFile != null) { EnvironmentFile = cfg.daemon.environmentFile; };
      };
    })
  ];
}

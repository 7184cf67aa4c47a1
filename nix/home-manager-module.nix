# A home-manager module: pushes what is built on this machine, as a service of the user, who needs no rights for it.
{ config, lib, ... }:
let
  cfg = config.services.icehouse;
  inherit (lib) mkEnableOption mkIf mkOption types;
in
{
  options.services.icehouse = {
    enable = mkEnableOption "pushing what is built on this machine";
    package = mkOption {
      type = types.package;
      description = "The package with bin/icehouse.";
    };
    cache = mkOption {
      type = types.str;
      example = "https://cache.example.org/team";
      description = "The URL of the cache to push to; log in to its server with `icehouse login`.";
    };
  };

  config = mkIf cfg.enable {
    home.packages = [ cfg.package ];
    systemd.user.services.icehouse-watch-store = {
      Unit.Description = "Push what is built to an Icehouse cache";
      Service = {
        Type = "notify";
        WatchdogSec = "2min";
        ExecStart = "${cfg.package}/bin/icehouse watch-store ${lib.escapeShellArg cfg.cache}";
        Environment = "PATH=${config.home.profileDirectory}/bin:/nix/var/nix/profiles/default/bin:/run/current-system/sw/bin";
        Restart = "on-failure";
        TimeoutStopSec = 60;
      };
      Install.WantedBy = [ "default.target" ];
    };
  };
}

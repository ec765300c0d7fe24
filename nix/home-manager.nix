# services.comfyui-xpu for one user, without root. The GPU driver is the system's.
{ config, lib, pkgs, ... }:
let
  logic = import ./lib.nix;
  cfg = config.services.comfyui-xpu;
  service = import ./service.nix { inherit lib pkgs cfg; };
in
{
  imports = [ ./renamed-home.nix ];

  options.services.comfyui-xpu = import ./options.nix {
    inherit lib pkgs cfg;
    dataDir = "${config.xdg.dataHome}/comfyui-xpu";
  };

  config = lib.mkIf cfg.enable {
    assertions = map (message: { assertion = false; inherit message; }) (logic.problems cfg);

    home.packages = [ service.package ];

    systemd.user.services.comfyui-xpu = {
      Unit = { Description = "ComfyUI for Intel GPUs"; } // logic.startLimit;
      Install.WantedBy = [ "default.target" ];
      Service = {
        # Quoted, so that a value may hold blanks.
        Environment = lib.mapAttrsToList (name: value: builtins.toJSON "${name}=${value}") service.environment;
        ExecStartPre = "${service.link}";
        ExecStart = service.command;
        Restart = "on-failure";
        RestartSec = "5s";
        NoNewPrivileges = true;
        PrivateTmp = true;
      };
    };
  };
}

# What our NixOS module makes of settings, as values that JSON can hold; see system.nix for the arguments.
{ ollama ? "option", backends ? [ "vulkan" ], overlays ? [ (import ../../../nix/overlay.nix) ], ... }@given:
let
  lib = import ../lib.nix;
  pkgs = import ../nixpkgs { inherit backends overlays; };
  system = import ./system.nix (removeAttrs given [ "overlays" ] // { inherit pkgs; });
  inherit (system) config;
  paths = map (package: package.name);
in
{
  inherit (config) warnings;
  failures = map (entry: entry.message) (lib.filter (entry: !entry.assertion) config.assertions);
  unit = config.systemd.services.comfyui-xpu or null;
  link = config.systemd.services.comfyui-xpu.serviceConfig.ExecStartPre or null;
  doctor = config.systemd.services.comfyui-xpu-doctor or null;
  ray = config.systemd.services.comfyui-xpu-ray or null;
  serve = config.systemd.services.comfyui-xpu-serve or null;
  inherit (config.networking.firewall) interfaces;
  tmpfiles = config.systemd.tmpfiles.settings;
  inherit (config) users;
  systemPackages = paths config.environment.systemPackages;
  ports = config.networking.firewall.allowedTCPPorts;
  graphics = config.hardware.graphics.enable;
  drivers = paths config.hardware.graphics.extraPackages;
  ollama = {
    inherit (config.services.ollama) enable port environmentVariables host models user group;
    package = config.services.ollama.package.name;
    backend = config.services.ollama.package.acceleration;
    acceleration = if ollama == "option" then config.services.ollama.acceleration else "no such option";
  };
  options = {
    inherit (config.services.comfyui-xpu) acceleration host port user group;
    inherit (config.services.comfyui-xpu.models) folders;
    nodes = lib.attrNames config.services.comfyui-xpu.customNodes;
    ollamaEnable = config.services.comfyui-xpu.ollama.enable;
    ollamaHosts = config.services.comfyui-xpu.ollama.hosts;
  };
  overlays = map (_: 1) config.nixpkgs.overlays;
  declaresComfyui = system.options.services ? comfyui;
  python = let
    service = import ../../../nix/service.nix { inherit lib pkgs; cfg = config.services.comfyui-xpu; };
  in {
    packages = paths service.package.environment.extraLibs;
    link = service.link.text;
    workersMain = service.workersComfyui.entries."main.py".text;
    inherit (service.package) acceleration;
    modelPaths = if service.modelPaths == null then null else service.modelPaths.text;
  };
}

# Our NixOS module in the real module system, with stubs for what it touches of NixOS.
# `ollama`: which generation of services.ollama; `neighbour`: settings of someone's services.comfyui, or null.
{ settings, ollama ? "option", neighbour ? null, module ? ../../../nix/nixos.nix }:
let
  lib = import (builtins.getEnv "NIXPKGS_LIB" + "/lib");
  inherit (lib) mkOption types;
  pkgs = import ./nixpkgs { overlays = [ (import ../../../nix/overlay.nix) ]; };
  anything = mkOption { type = types.anything; default = { }; };
  unit = types.submodule {
    freeformType = types.anything;
    options.environment = mkOption { type = types.attrsOf types.str; default = { }; };
    options.after = mkOption { type = types.listOf types.str; default = [ ]; };
  };
  stubs = {
    options = {
      assertions = mkOption { type = types.listOf types.anything; default = [ ]; };
      warnings = mkOption { type = types.listOf types.str; default = [ ]; };
      systemd.services = mkOption { type = types.attrsOf unit; default = { }; };
      systemd.tmpfiles.settings = anything;
      environment.systemPackages = mkOption { type = types.listOf types.package; default = [ ]; };
      users = { users = anything; groups = anything; };
      networking.firewall.allowedTCPPorts = mkOption { type = types.listOf types.port; default = [ ]; };
      nixpkgs.overlays = mkOption { type = types.listOf types.raw; default = [ ]; };
      hardware.graphics = {
        enable = mkOption { type = types.bool; default = false; };
        extraPackages = mkOption { type = types.listOf types.package; default = [ ]; };
      };
      services.ollama = {
        enable = mkOption { type = types.bool; default = false; };
        package = mkOption { type = types.package; default = pkgs.ollama; };
        port = mkOption { type = types.port; default = 11434; };
        environmentVariables = mkOption { type = types.attrsOf types.str; default = { }; };
        host = mkOption { type = types.str; default = "127.0.0.1"; };
      } // lib.genAttrs [ "models" "user" "group" ] (_: mkOption { type = types.str; default = "unset"; })
      // lib.optionalAttrs (ollama == "option") {
        acceleration = mkOption { type = types.nullOr (types.enum [ false "rocm" "cuda" "vulkan" ]); default = null; };
      };
    };
    config._module.args.pkgs = pkgs;
  };
  removed = lib.mkRemovedOptionModule [ "services" "ollama" "acceleration" ] "Set services.ollama.package instead.";
  comfyui = {
    options.services.comfyui = anything;
    config.services.comfyui = neighbour;
  };
  system = lib.evalModules {
    class = "nixos";
    modules = [ stubs module settings ]
      ++ lib.optional (ollama == "removed") removed
      ++ lib.optional (neighbour != null) comfyui;
  };
  inherit (system) config;
  paths = map (package: package.name);
in
{
  inherit (config) warnings;
  failures = map (entry: entry.message) (lib.filter (entry: !entry.assertion) config.assertions);
  unit = config.systemd.services.comfyui-xpu or null;
  link = config.systemd.services.comfyui-xpu.serviceConfig.ExecStartPre or null;
  doctor = config.systemd.services.comfyui-xpu-doctor or null;
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
    inherit (service.package) acceleration;
    modelPaths = if service.modelPaths == null then null else service.modelPaths.text;
  };
}

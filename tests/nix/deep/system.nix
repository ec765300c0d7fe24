# Our NixOS module in the real module system, with stubs for what it touches of NixOS: the system.
# `ollama`: which generation of services.ollama; `neighbour`: settings of someone's services.comfyui, or null.
{
  settings,
  pkgs ? import ../nixpkgs { inherit backends; overlays = [ (import ../../../nix/overlay.nix) ]; },
  backends ? [ "vulkan" ],
  ollama ? "option",
  neighbour ? null,
  module ? ../../../nix/nixos.nix,
}:
let
  lib = import ../lib.nix;
  inherit (lib) mkOption types;
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
      networking.firewall.interfaces = anything;
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
        acceleration = mkOption {
          type = types.nullOr (types.enum ([ false "rocm" "cuda" ] ++ backends));
          default = null;
        };
      };
    };
    config._module.args.pkgs = pkgs;
  };
  removed = lib.mkRemovedOptionModule [ "services" "ollama" "acceleration" ] "Set services.ollama.package instead.";
  comfyui = {
    options.services.comfyui = anything;
    config.services.comfyui = neighbour;
  };
in
lib.evalModules {
  class = "nixos";
  modules = [ stubs module settings ]
    ++ lib.optional (ollama == "removed") removed
    ++ lib.optional (neighbour != null) comfyui;
}

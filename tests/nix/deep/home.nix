# Our Home Manager module in the real module system, with stubs for what it touches of Home Manager.
{ settings }:
let
  lib = import ../lib.nix;
  inherit (lib) mkOption types;
  anything = mkOption { type = types.anything; default = { }; };
  stubs = {
    options = {
      assertions = mkOption { type = types.listOf types.anything; default = [ ]; };
      systemd.user.services = anything;
      xdg.dataHome = mkOption { type = types.str; default = "/home/ann/.local/share"; };
      home.packages = mkOption { type = types.listOf types.package; default = [ ]; };
    };
    config._module.args.pkgs = import ../nixpkgs { overlays = [ (import ../../../nix/overlay.nix) ]; };
  };
  inherit (lib.evalModules { modules = [ stubs ../../../nix/home-manager.nix settings ]; }) config;
in
{
  failures = map (entry: entry.message) (lib.filter (entry: !entry.assertion) config.assertions);
  unit = config.systemd.user.services.comfyui-xpu or null;
  packages = map (package: package.name) config.home.packages;
}

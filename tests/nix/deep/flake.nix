# Outputs of our flake, or of a flake of someone who imports our flake module, through the real flake-parts.
{ user ? null }:
let
  lib = import ../lib.nix;
  flakeParts = import (builtins.getEnv "FLAKE_PARTS" + "/flake.nix");
  flake-parts = flakeParts.outputs {
    self = flake-parts;
    nixpkgs-lib = { inherit lib; };
  } // { outPath = builtins.getEnv "FLAKE_PARTS"; };
  nixpkgs = { outPath = ../nixpkgs; inherit lib; };
  ours = (import ../../../flake.nix).outputs { self = self ours; inherit nixpkgs flake-parts; };
  theirs = flake-parts.lib.mkFlake { inputs = { self = self theirs; inherit nixpkgs flake-parts; }; } {
    systems = [ "x86_64-linux" "aarch64-linux" ];
    imports = [ ours.flakeModules.default ];
    perSystem = { system, ... }: {
      _module.args.pkgs = import nixpkgs { inherit system; };
      imports = [ user ];
    };
  };
  self = outputs: outputs // { inputs = { }; outPath = ../../..; _type = "flake"; };
  flake = if user == null then ours else theirs;
  names = lib.mapAttrs (_: value: value.name);
in
{
  packages = lib.mapAttrs (_: names) flake.packages;
  apps = lib.mapAttrs (_: lib.mapAttrs (_: app: app.program)) flake.apps;
  checks = lib.mapAttrs (_: names) flake.checks;
  devShells = lib.mapAttrs (_: lib.attrNames) flake.devShells;
  overlays = lib.attrNames ours.overlays;
  nixosModules = lib.attrNames ours.nixosModules;
  homeManagerModules = lib.attrNames ours.homeManagerModules;
  flakeModules = lib.attrNames ours.flakeModules;
  python = map (package: package.name) flake.packages.x86_64-linux.comfyui-xpu.environment.extraLibs;
  nodes = lib.attrNames flake.packages.x86_64-linux.comfyui-xpu.customNodes;
}

# A flake-parts module: `imports = [ inputs.xpu-nodes.flakeModules.default ]`, or the file itself.
# It adds ComfyUI for Intel GPUs to your flake's packages, apps, checks and devShells.
{ lib, flake-parts-lib, ... }:
let
  inherit (lib) mkEnableOption mkIf mkOption types;
in
{
  _file = ./flake-module.nix;

  options.perSystem = flake-parts-lib.mkPerSystemOption ({ config, pkgs, system, ... }:
    let
      cfg = config.xpuNodes;
      app = name: description: {
        type = "app";
        program = "${cfg.package}/bin/${name}";
        meta = { inherit description; };
      };
    in
    {
      _file = ./flake-module.nix;

      options.xpuNodes = {
        enable = mkEnableOption "ComfyUI for Intel GPUs in this flake" // {
          default = system == "x86_64-linux";
          defaultText = lib.literalExpression ''system == "x86_64-linux"'';
        };
        pkgs = mkOption {
          type = types.lazyAttrsOf types.raw;
          default = pkgs.extend (import ./nix/overlay.nix);
          defaultText = lib.literalExpression "pkgs.extend inputs.xpu-nodes.overlays.default";
          description = "Packages with the overlay. Intel's runtime is unfree and must be allowed in them.";
        };
        acceleration = mkOption {
          type = types.enum [ "xpu" "cpu" ];
          default = "xpu";
          description = "Where models run.";
        };
        customNodes = mkOption {
          type = types.attrsOf types.package;
          default = { };
          description = "Further node packs, by the name of their folder.";
        };
        extraPackages = mkOption {
          type = types.functionTo (types.listOf types.package);
          default = _: [ ];
          defaultText = lib.literalExpression "_: [ ]";
          description = "Further Python packages for ComfyUI.";
        };
        package = mkOption {
          type = types.package;
          readOnly = true;
          default = cfg.pkgs.comfyui-xpu.override { inherit (cfg) acceleration customNodes extraPackages; };
          defaultText = lib.literalExpression "pkgs.comfyui-xpu.override { ... }";
          description = "ComfyUI as configured here.";
        };
        vmTest = mkEnableOption "the test in a virtual machine among the checks (several GB, CPU only)";
      };

      config = mkIf cfg.enable {
        packages = {
          comfyui-xpu = cfg.package;
          comfyui-xpu-image = cfg.pkgs.comfyui-xpu-image.override { comfyui-xpu = cfg.package; };
          inherit (cfg.pkgs) comfyui-xpu-nodes ollama-xpu torch-xpu;
        };
        apps = {
          comfyui-xpu = app "comfyui-xpu" "ComfyUI for Intel GPUs";
          doctor = app "comfyui-xpu-doctor" "Find what keeps ComfyUI from the Intel GPU";
          bench = app "comfyui-xpu-bench" "Measure this machine";
        };
        checks = {
          inherit (cfg.pkgs) comfyui-xpu-nodes;
        } // lib.optionalAttrs cfg.vmTest {
          comfyui-xpu-vm = cfg.pkgs.callPackage ./nix/checks/vm.nix { };
        };
        devShells.xpu = cfg.pkgs.mkShell { packages = [ cfg.package ]; };
      };
    });
}

# For people without flakes:
#   let xpu = import (fetchTarball ".../xpu-nodes/archive/main.tar.gz") { inherit pkgs; }; in xpu.comfyui-xpu
{ pkgs ? null }:
let
  overlays = {
    default = import ./nix/overlay.nix;
    mkl = import ./nix/overlay-mkl.nix;
    ipex = import ./nix/overlay-ipex.nix;
  };
  extended = pkgs.extend overlays.default;
in
{
  inherit overlays;
  nixosModules = {
    # Without the overlay: you have it in nixpkgs.overlays already, or set the package.
    xpu = ./nix/nixos.nix;
    default = {
      imports = [ ./nix/nixos.nix ];
      nixpkgs.overlays = [ overlays.default ];
    };
  };
  homeManagerModules.default = ./nix/home-manager.nix;
}
// (if pkgs == null then { } else {
  inherit (extended) comfyui-xpu comfyui-xpu-image comfyui-xpu-nodes ollama-xpu torch-xpu;
})

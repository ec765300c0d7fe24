# What the tests build. `settings` is the value of services.comfyui-xpu, as JSON, but for what holds derivations: the
# package and the node are those of nix/checks/vm.nix.
{ python, site, host, bash, path, wheels ? "", settings ? "null" }:
let
  lib = import ./lib.nix;
  pkgs = import ./nixpkgs {
    overlays = [
      (import ./buildable.nix { inherit python site host bash path wheels; })
      (import ../../nix/overlay.nix)
    ];
  };
  inherit ((pkgs.callPackage ../../nix/checks/vm.nix { }).test) nodes;
  machine = nodes.machine.services.comfyui-xpu;
  service = import ../../nix/service.nix {
    inherit lib pkgs;
    cfg = builtins.fromJSON settings // { inherit (machine) package customNodes; extraPackages = _: [ ]; };
  };
in
{
  nodes = pkgs.comfyui-xpu-nodes;
  xpu = pkgs.comfyui-xpu;
  cpu = machine.package;
  runtime = pkgs.intel-xpu-runtime;
  checkpoint = pkgs.linkFarm "checkpoint" (builtins.mapAttrs (_: file: file.path) {
    "sd15-tiny.safetensors" = machine.models.files."checkpoints/sd15-tiny.safetensors";
  });
  inherit (service) link;
  start = pkgs.writeShellScript "start" "exec ${service.command} \"$@\"";
}

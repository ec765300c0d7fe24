{
  description = "XPU Nodes: ComfyUI for Intel GPUs";

  inputs = {
    nixpkgs.url = "github:NixOS/nixpkgs/nixos-unstable";
    flake-parts.url = "github:hercules-ci/flake-parts";
    flake-parts.inputs.nixpkgs-lib.follows = "nixpkgs";
  };

  outputs = inputs: inputs.flake-parts.lib.mkFlake { inherit inputs; } (
    let
      parts = import ./. { };
    in
    {
      systems = [ "x86_64-linux" ];
      imports = [ ./flake-module.nix ];

      flake = {
        flakeModules.default = ./flake-module.nix;
        inherit (parts) overlays nixosModules homeManagerModules;
      };

      perSystem = { config, pkgs, system, ... }: {
        # Intel's runtime libraries are unfree; nothing else is allowed to be.
        _module.args.pkgs = import inputs.nixpkgs {
          inherit system;
          config.allowUnfreePredicate = package: (package.pname or "") == "intel-xpu-runtime";
        };
        xpuNodes.vmTest = true;
        packages.default = config.packages.comfyui-xpu;
        devShells.default = pkgs.mkShell {
          packages = [ (pkgs.python3.withPackages (python: [ python.pytest python.ruff python.mypy ])) ];
        };
      };
    }
  );
}

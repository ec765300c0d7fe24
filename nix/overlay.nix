# overlays.default: torch-xpu and what is built on it. Needs nixpkgs with `comfyui` and the Python of wheels.json.
final: prev:
let
  inherit (final) lib;
  # Not nixpkgs' `python3`: PyTorch's wheels are for one Python each. This is one whose packages nixpkgs builds.
  inherit (import ./wheels.nix) interpreter;
  python = final.${interpreter}
    or (throw "comfyui-xpu: PyTorch's wheels are for ${interpreter}, which this nixpkgs has not; take one that has.");
  xpuPackages = import ./python-xpu.nix python.pkgs;
  # nixpkgs' comfyui, also where another overlay (utensils' comfyui-nix) has put a package without these under its name.
  takesPython = package: package ? override && package ? python && package ? pythonEnv;
  recipe = final.path + "/pkgs/by-name/co/comfyui/package.nix";
  comfyui =
    if takesPython (final.comfyui or { }) || !builtins.pathExists recipe then final.comfyui or null
    else final.callPackage recipe { };

  renamed = old: new: lib.warn "${old} is now called ${new}; write pkgs.${new}." final.${new};
in
{
  # Intel's runtime and the wheels of PyTorch are of one version set; see wheels.json.
  intel-xpu-runtime = final.callPackage ./packages/intel-xpu-runtime.nix {
    inherit (python.pkgs) fetchPypi;
  };

  # A Python whose torch is the XPU build.
  python-xpu = python.override (old: {
    self = final.python-xpu;
    packageOverrides = lib.composeExtensions (old.packageOverrides or (_: _: { })) xpuPackages;
  });
  torch-xpu = final.python-xpu.pkgs.torch;

  comfyui-xpu-nodes = final.callPackage ./packages/comfyui-xpu-nodes.nix { };
  comfyui-xpu = final.callPackage ./packages/comfyui-xpu.nix { inherit comfyui python xpuPackages; };
  comfyui-xpu-image = final.callPackage ./packages/comfyui-xpu-image.nix { };
  ollama-xpu = final.callPackage ./packages/ollama-xpu.nix { };

  comfyui-ipex = renamed "comfyui-ipex" "comfyui-xpu";
  ollama-ipex = renamed "ollama-ipex" "ollama-xpu";
}

# overlays.ipex: Intel Extension for PyTorch, the last step of the old flake, off by default. Intel ended the
# project at 2.8, which needs torch 2.8 exactly: it is a Python of its own (3.12, CPU only), for scripts that
# still import it. The GPU needs no IPEX: torch-xpu has it built in.
final: _:
let
  inherit (import ./wheels.nix) wheels;
  ipexPackages = python: _: {
    torch = python.callPackage ./packages/torch-for-ipex.nix { wheel = wheels.ipex.torch-for-ipex; };
    intel-extension-for-pytorch = python.callPackage ./packages/ipex.nix {
      wheel = wheels.ipex.intel-extension-for-pytorch;
    };
  };
in
{
  python-ipex = final.python312.override (old: {
    self = final.python-ipex;
    packageOverrides = final.lib.composeExtensions (old.packageOverrides or (_: _: { })) ipexPackages;
  });
}

# Python package overrides: torch and its companions from PyTorch's XPU wheels.
final: _:
let
  inherit ((import ./lib.nix).wheels) pytorch;
  companion = name: final.callPackage ./packages/torch-companion.nix { wheel = pytorch.${name}; };
in
{
  pyzes = final.callPackage ./packages/pyzes.nix { };
  triton-xpu = final.callPackage ./packages/triton-xpu.nix { wheel = pytorch.triton-xpu; };
  torch = final.callPackage ./packages/torch-xpu.nix { wheel = pytorch.torch; };
  torchvision = companion "torchvision";
  torchaudio = companion "torchaudio";
}

# Python package overrides: torch and its companions from PyTorch's XPU wheels. `plain` are the packages without them.
plain: final: prev:
let
  inherit ((import ./wheels.nix).wheels) pytorch;
  companion = name: final.callPackage ./packages/torch-companion.nix { wheel = pytorch.${name}; };
in
{
  pyzes = final.callPackage ./packages/pyzes.nix { };
  triton-xpu = final.callPackage ./packages/triton-xpu.nix { wheel = pytorch.triton-xpu; };
  torch = final.callPackage ./packages/torch-xpu.nix { wheel = pytorch.torch; };
  torchvision = companion "torchvision";
  torchaudio = companion "torchaudio";
  # These need torch for their tests alone: with nixpkgs' own they are what its cache has, and nothing is compiled.
  inherit (plain) einops safetensors tokenizers transformers;
  # Built again for this torch, but not tested again, which takes longer.
  torchsde = prev.torchsde.overridePythonAttrs (_: { doCheck = false; });
}

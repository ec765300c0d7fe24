{ lib, derivation, generation, python3, extraPackages ? (_: [ ]) }:
let
  theirs = _: prev: {
    torch = (prev.torch.override { cudaSupport = false; }).override { cudaPackages = "13"; };
  };
  python = python3.override (old: {
    self = python;
    packageOverrides =
      if generation == "plain" then theirs
      else lib.composeExtensions (old.packageOverrides or (_: _: { })) theirs;
  });
in
derivation "comfyui-0.37.0" {
  version = "0.37.0";
  inherit python;
  pythonEnv = python.withPackages (ps: [ ps.aiohttp ps.torch ps.torchvision ps.torchaudio ] ++ extraPackages ps);
  meta = { homepage = "https://github.com/Comfy-Org/ComfyUI"; license = "gpl3Only"; };
}

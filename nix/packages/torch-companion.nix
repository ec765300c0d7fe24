# A wheel that is compiled against torch (torchvision, torchaudio).
{
  lib,
  stdenv,
  buildPythonPackage,
  fetchurl,
  autoPatchelfHook,
  intel-xpu-runtime,
  numpy,
  pillow,
  torch,
  zlib,
  wheel,
}:
let
  inherit (import ../wheels.nix) pytorchWheel;
in
buildPythonPackage {
  pname = wheel.name;
  inherit (wheel) version;
  format = "wheel";
  src = fetchurl (pytorchWheel wheel);
  nativeBuildInputs = [ autoPatchelfHook ];
  buildInputs = [ (lib.getLib stdenv.cc.cc) intel-xpu-runtime zlib ];
  dependencies = [ numpy pillow torch ];
  # torch has these loaded before its companions are.
  appendRunpaths = [ "${torch}/${torch.libraries}" ];
  autoPatchelfIgnoreMissingDeps = [ "libc10*.so" "libtorch*.so" ];
  dontStrip = true;
  pythonImportsCheck = [ wheel.name ];
  passthru = {
    cudaSupport = false;
  };
  meta = {
    description = "${wheel.name} for PyTorch on Intel GPUs";
    homepage = "https://pytorch.org";
    license = lib.licenses.bsd3;
    sourceProvenance = [ lib.sourceTypes.binaryNativeCode ];
    platforms = [ "x86_64-linux" ];
  };
}

# The compiler behind torch.compile on Intel GPUs.
{
  lib,
  stdenv,
  buildPythonPackage,
  fetchurl,
  autoPatchelfHook,
  intel-xpu-runtime,
  setuptools,
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
  dependencies = [ setuptools ];
  autoPatchelfIgnoreMissingDeps = [ "libze_loader.so.1" "libcuda.so.1" ];
  dontCheckRuntimeDeps = true;
  dontStrip = true;
  meta = {
    description = "Triton for Intel GPUs";
    homepage = "https://github.com/intel/intel-xpu-backend-for-triton";
    license = lib.licenses.mit;
    sourceProvenance = [ lib.sourceTypes.binaryNativeCode ];
    platforms = [ "x86_64-linux" ];
  };
}

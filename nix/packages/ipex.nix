# Intel Extension for PyTorch (CPU), its last release.
{
  lib,
  stdenv,
  buildPythonPackage,
  fetchPypi,
  autoPatchelfHook,
  numpy,
  packaging,
  psutil,
  torch,
  wheel,
}:
let
  inherit (import ../wheels.nix) pypiWheel;
in
buildPythonPackage {
  pname = wheel.name;
  inherit (wheel) version;
  format = "wheel";
  src = fetchPypi (pypiWheel wheel);
  nativeBuildInputs = [ autoPatchelfHook ];
  buildInputs = [ (lib.getLib stdenv.cc.cc) ];
  dependencies = [ numpy packaging psutil torch ];
  # torch loads these before its extension.
  autoPatchelfIgnoreMissingDeps = [ "libc10.so" "libtorch*.so" ];
  dontStrip = true;
  pythonImportsCheck = [ "intel_extension_for_pytorch" ];
  meta = {
    description = "Intel Extension for PyTorch";
    homepage = "https://github.com/intel/intel-extension-for-pytorch";
    license = lib.licenses.asl20;
    sourceProvenance = [ lib.sourceTypes.binaryNativeCode ];
    platforms = [ "x86_64-linux" ];
  };
}

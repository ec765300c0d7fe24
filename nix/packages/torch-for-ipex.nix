# The CPU wheel of the one torch version that the last IPEX accepts.
{
  lib,
  stdenv,
  buildPythonPackage,
  fetchurl,
  autoPatchelfHook,
  filelock,
  fsspec,
  jinja2,
  networkx,
  numpy,
  setuptools,
  sympy,
  typing-extensions,
  zlib,
  wheel,
}:
let
  inherit (import ../wheels.nix) pytorchWheel;
in
buildPythonPackage {
  pname = "torch";
  inherit (wheel) version;
  format = "wheel";
  src = fetchurl (pytorchWheel wheel);
  nativeBuildInputs = [ autoPatchelfHook ];
  buildInputs = [ (lib.getLib stdenv.cc.cc) zlib ];
  dependencies = [ filelock fsspec jinja2 networkx numpy setuptools sympy typing-extensions ];
  dontStrip = true;
  pythonImportsCheck = [ "torch" ];
  meta = {
    description = "PyTorch for the CPU, in the version that IPEX needs";
    homepage = "https://pytorch.org";
    license = lib.licenses.bsd3;
    sourceProvenance = [ lib.sourceTypes.binaryNativeCode ];
    platforms = [ "x86_64-linux" ];
  };
}

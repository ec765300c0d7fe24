# PyTorch's own XPU wheel: Intel GPUs through Level Zero, and a CPU half with MKL and oneDNN inside.
{
  lib,
  stdenv,
  python,
  buildPythonPackage,
  fetchurl,
  autoPatchelfHook,
  intel-xpu-runtime,
  filelock,
  fsspec,
  jinja2,
  networkx,
  numpy,
  pyzes,
  setuptools,
  sympy,
  triton-xpu,
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
  buildInputs = [ (lib.getLib stdenv.cc.cc) intel-xpu-runtime zlib ];
  dependencies = [
    filelock
    fsspec
    jinja2
    networkx
    numpy
    pyzes
    setuptools
    sympy
    triton-xpu
    typing-extensions
  ];
  autoPatchelfIgnoreMissingDeps = [ "libze_loader.so.1" "libOpenCL.so.1" ];
  # The runtime is linked, not installed as Python packages: whoever asks pip what torch needs (nixpkgs' comfyui
  # does when it is built) must not be told to look for them.
  postInstall = ''
    sed -i -E '/^Requires-Dist: (intel|onemkl|oneccl|impi|mkl|tbb|tcmlib|umf|dpcpp)/d' \
      $out/${python.sitePackages}/torch-*.dist-info/METADATA
  '';
  dontCheckRuntimeDeps = true;
  dontStrip = true;
  pythonImportsCheck = [ "torch" ];
  # What packages built on torch ask of it.
  passthru = {
    inherit stdenv;
    cudaSupport = false;
    cudaCapabilities = [ ];
    cudaPackages = { };
    rocmSupport = false;
    rocmPackages = { };
    xpuSupport = true;
    libraries = "lib/${python.libPrefix}/site-packages/torch/lib";
  };
  meta = {
    description = "PyTorch for Intel GPUs";
    homepage = "https://pytorch.org";
    license = lib.licenses.bsd3;
    sourceProvenance = [ lib.sourceTypes.binaryNativeCode ];
    platforms = [ "x86_64-linux" ];
  };
}

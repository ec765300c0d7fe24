# Intel's runtime for PyTorch's XPU wheels, all in one place: the wheels need each other's libraries, and one
# derivation each would recurse without end. Includes MKL, TBB, OpenMP, SYCL and oneCCL.
{
  lib,
  stdenvNoCC,
  stdenv,
  fetchPypi,
  autoPatchelfHook,
  unzip,
  zlib,
}:
let
  inherit (import ../wheels.nix) pypiWheel wheels;
in
stdenvNoCC.mkDerivation {
  pname = "intel-xpu-runtime";
  version = wheels.intel.intel-sycl-rt.version;
  srcs = map (wheel: fetchPypi (pypiWheel wheel)) (builtins.attrValues wheels.intel);
  nativeBuildInputs = [ autoPatchelfHook unzip ];
  buildInputs = [ (lib.getLib stdenv.cc.cc) zlib ];
  dontUnpack = true;
  installPhase = ''
    runHook preInstall
    mkdir -p $out/lib
    for wheel in $srcs; do
      unzip -qo "$wheel" -d wheel
      if [ -d wheel/*.data/data/lib ]; then cp -r wheel/*.data/data/lib/. $out/lib; fi
      rm -r wheel
    done
    find $out/lib -name '*.a' -delete  # only for those who link programs
    # A wheel has copies where a library's other names were links.
    find $out/lib -type f -exec sha256sum {} + | sort | while read -r digest file; do
      if [ "$digest" = "''${last-}" ]; then ln -sfr "$kept" "$file"; else last=$digest kept=$file; fi
    done
    runHook postInstall
  '';
  # All that the libraries of these wheels need and neither they nor buildInputs have: the driver's loader is the
  # machine's (/run/opengl-driver/lib), the rest are network fabrics of clusters, which MPI tries one by one.
  autoPatchelfIgnoreMissingDeps = [
    "libze_loader.so.1"
    "libefa.so.1"
    "libibverbs.so.1"
    "libnuma.so.1"
    "libpsm2.so.2"
    "librdmacm.so.1"
    "libucp.so.0"
    "libuuid.so.1"
  ];
  # MKL and the SYCL runtime load further libraries of this folder by name while they run.
  appendRunpaths = [ "${builtins.placeholder "out"}/lib" ];
  dontStrip = true;
  meta = {
    description = "Intel's SYCL, MKL, TBB, OpenMP and oneCCL libraries for PyTorch on Intel GPUs";
    homepage = "https://www.intel.com/content/www/us/en/developer/tools/oneapi/overview.html";
    license = lib.licenses.issl;
    sourceProvenance = [ lib.sourceTypes.binaryNativeCode ];
    platforms = [ "x86_64-linux" ];
  };
}

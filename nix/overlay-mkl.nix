# overlays.mkl: BLAS and LAPACK from Intel MKL (with TBB) for the torch that nixpkgs builds itself, which
# `comfyui-xpu.override { acceleration = "cpu"; }` uses. Off by default: torch is then built on your machine.
# oneDNN is part of nixpkgs' torch already; torch-xpu carries MKL and oneDNN inside its wheel.
final: prev: {
  blas = prev.blas.override { blasProvider = final.mkl; };
  lapack = prev.lapack.override { lapackProvider = final.mkl; };
}

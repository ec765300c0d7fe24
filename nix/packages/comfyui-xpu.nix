# nixpkgs' ComfyUI with torch for Intel GPUs, this pack, and further nodes:
#   comfyui-xpu.override { customNodes.gguf = pkgs.fetchFromGitHub { ... }; }
{
  lib,
  runCommand,
  makeBinaryWrapper,
  linkFarm,
  writeText,
  addDriverRunpath,
  intel-compute-runtime,
  intel-graphics-compiler,
  level-zero,
  python,
  comfyui,
  comfyui-xpu-nodes,
  xpuPackages,
  # "xpu" takes PyTorch's XPU wheels, "cpu" leaves nixpkgs' own torch in place.
  acceleration ? "xpu",
  # Name of the node's folder -> package. A node's Python dependencies are read from its
  # `pythonDependencies` (python packages -> list).
  customNodes ? { },
  extraPackages ? (_: [ ]),
}:
assert lib.assertMsg (comfyui != null)
  "comfyui-xpu: this nixpkgs has no comfyui package; follow nixos-unstable from 2026-07 or newer.";
assert lib.assertMsg
  (comfyui ? override && lib.functionArgs comfyui.override ? python3 && comfyui ? python && comfyui ? pythonEnv)
  "comfyui-xpu: this nixpkgs' comfyui cannot be given a Python; follow nixos-unstable from 2026-07 or newer.";
let
  # nixpkgs' comfyui calls `python3.override` with package overrides of its own, which set CUDA versions in its
  # torch, and older ones drop the caller's. Ours are therefore added to that call, after its own.
  pythonWithXpu = python // {
    override = arguments: python.override (old:
      let theirs = lib.toFunction arguments old; in
      theirs // {
        packageOverrides = lib.composeExtensions (theirs.packageOverrides or (_: _: { })) xpuPackages;
      });
  };
  server = if acceleration == "xpu" then comfyui.override { python3 = pythonWithXpu; } else comfyui;

  nodes = { xpu-nodes = comfyui-xpu-nodes; } // customNodes;
  dependencies = python:
    extraPackages python
    ++ lib.concatMap (node: (node.pythonDependencies or (_: [ ])) python) (lib.attrValues nodes);
  environment = server.pythonEnv.override (old: { extraLibs = old.extraLibs ++ dependencies server.python.pkgs; });

  nodePaths = writeText "xpu-nodes.json" (builtins.toJSON {
    xpu-nodes.custom_nodes = "${linkFarm "comfyui-custom-nodes" nodes}";
  });
  # The GPU driver is the machine's: NixOS keeps it under driverLink. Elsewhere the one of nixpkgs serves: the
  # distribution's own folder would bring its C library along.
  driverPaths = "--prefix LD_LIBRARY_PATH : ${addDriverRunpath.driverLink}/lib"
    + lib.optionalString (acceleration == "xpu") " --suffix LD_LIBRARY_PATH : ${lib.makeLibraryPath [
      (intel-compute-runtime.drivers or intel-compute-runtime) level-zero intel-graphics-compiler
    ]}";
  verb = name: module: ''
    makeBinaryWrapper ${environment}/bin/python $out/bin/comfyui-xpu-${name} \
      --add-flags "-m ${module}" --unset NIX_PYTHONPATH --set PYTHONPATH ${comfyui-xpu-nodes} \
      --set PYTHONDONTWRITEBYTECODE 1 ${driverPaths}
  '';
in
runCommand "comfyui-xpu-${server.version}"
  {
    nativeBuildInputs = [ makeBinaryWrapper ];
    passthru = {
      inherit server environment nodePaths acceleration customNodes;
      inherit (server) version python;
      pythonEnv = environment;
    };
    meta = {
      description = "ComfyUI for Intel GPUs";
      inherit (server.meta) homepage license;
      mainProgram = "comfyui-xpu";
      platforms = if acceleration == "xpu" then [ "x86_64-linux" ] else lib.platforms.linux;
    };
  }
  ''
    makeBinaryWrapper ${environment}/bin/python $out/bin/comfyui-xpu \
      --add-flags "${server}/share/comfyui/main.py" \
      --add-flags "--extra-model-paths-config=${nodePaths}" \
      --unset PYTHONPATH --unset NIX_PYTHONPATH \
      --set PYTHONDONTWRITEBYTECODE 1 ${driverPaths}
    # What nixpkgs' services.comfyui takes from its package.
    ln -s comfyui-xpu $out/bin/comfyui
    ln -s ${server}/share $out/share
    ${toString (map (name: verb name "xpu_utils ${name}") [ "doctor" "bench" "batch" "serve" ])}
    ${verb "ray" "ray.scripts.scripts"}
  ''

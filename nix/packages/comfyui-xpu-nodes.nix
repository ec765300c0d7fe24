# This pack as a folder that ComfyUI loads. It never writes into it, so the store is a fine place.
{
  lib,
  stdenvNoCC,
}:
let
  root = ../..;
  parts = map (name: root + "/${name}") (builtins.filter (name: builtins.pathExists (root + "/${name}")) [
    "__init__.py"
    "prestartup_script.py"
    "pyproject.toml"
    "LICENSE"
    "nodes"
    "xpu_utils"
    "web"
    "locales"
    "example_workflows"
    "subgraphs"
  ]);
in
stdenvNoCC.mkDerivation {
  pname = "comfyui-xpu-nodes";
  version = (builtins.fromTOML (builtins.readFile (root + "/pyproject.toml"))).project.version;
  src = lib.fileset.toSource { inherit root; fileset = lib.fileset.unions parts; };
  dontBuild = true;
  installPhase = ''
    runHook preInstall
    cp -r . $out
    runHook postInstall
  '';
  # What ComfyUI's own environment lacks; torch, safetensors, numpy, pillow, psutil, pydantic and tqdm are in it.
  passthru.pythonDependencies = python: [ python.ollama python.platformdirs ];
  meta = {
    description = "XPU Nodes: ComfyUI nodes that make Intel GPUs dependable";
    homepage = "https://github.com/xpu-nodes/xpu-nodes";
    license = lib.licenses.gpl3Only;
    platforms = lib.platforms.linux;
  };
}

# The Home Manager options of the flake this one replaces: each stops with what to write.
{ lib, ... }:
let
  gone = program: path: instead: lib.mkRemovedOptionModule ([ "programs" program ] ++ path) "Instead: ${instead}";
  both = map
    (program: [
      (gone program [ "enable" ] "services.comfyui-xpu.enable = true;")
      (gone program [ "aliases" ] "programs.bash.shellAliases; the program is comfyui-xpu.")
      (gone program [ "development" "enable" ] "nix develop of this flake.")
      (gone program [ "development" "vscode" ] "programs.vscode of Home Manager.")
      (gone program [ "development" "jupyter" ] "pkgs.python-xpu.withPackages (python: [ python.jupyter ])")
    ]) [ "comfyui-ipex" "ipex" ];
in
{
  imports = lib.concatLists both ++ [
    (gone "comfyui-ipex" [ "workspace" "directory" ] "services.comfyui-xpu.dataDir")
    (gone "comfyui-ipex" [ "workspace" "workflows" ] "nothing, ComfyUI keeps workflows in user/ of its dataDir.")
    (gone "comfyui-ipex" [ "models" "symlinks" ] "services.comfyui-xpu.models.folders = [ ... ];")
    (gone "comfyui-ipex" [ "development" "customNodes" ] "services.comfyui-xpu.customNodes.<name> = <package>;")
    (gone "ipex" [ "pythonPackages" ] "pkgs.python-xpu.withPackages")
  ];
}

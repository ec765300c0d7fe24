# The options of the flake this one replaces (services.comfyui-ipex, ollama-ipex, comfyui-user and ipex): renamed ones
# keep working and warn with what to write; the others stop with what to write.
{ config, lib, options, ... }:
let
  inherit (lib) mkChangedOptionModule mkRemovedOptionModule mkRenamedOptionModule getAttrFromPath;
  old = path: [ "services" "comfyui-ipex" ] ++ path;
  new = path: [ "services" "comfyui-xpu" ] ++ path;
  oldOllama = path: [ "services" "ollama-ipex" ] ++ path;

  same = name: mkRenamedOptionModule (old [ name ]) (new [ name ]);
  changed = from: to: convert:
    mkChangedOptionModule (old from) (new to) (config: convert (getAttrFromPath (old from) config));
  onlyOne = name: packages:
    lib.throwIf (lib.length packages > 1)
      ("services.comfyui-ipex.nodes.custom: ${toString (lib.length packages)} packages are called ${name}; "
        + "name each folder with services.comfyui-xpu.customNodes.<name> = <package>; instead.")
      (lib.head packages);
  gone = path: instead: mkRemovedOptionModule path "Instead: ${instead}";
  removed = path: gone (old path);
  removedUser = name: gone [ "services" "comfyui-user" name ];
  removedIpex = name: gone [ "services" "ipex" name ];
  cfg = config.services.comfyui-xpu;
in
{
  # The old module did that by itself.
  config.warnings = lib.optional
    (cfg.enable && options.services.comfyui-ipex.host.isDefined && cfg.host != [ "127.0.0.1" ] && !cfg.openFirewall)
    ("services.comfyui-ipex.host opened the firewall; services.comfyui-xpu.host does not: where other machines are to "
      + "reach ComfyUI, write services.comfyui-xpu.openFirewall = true;");

  imports =
    map same [ "enable" "package" "host" "port" "user" "group" ]
    ++ [
      (changed [ "acceleration" ] [ "acceleration" ] (value: if value == "auto" then "xpu" else value))
      (changed [ "models" "path" ] [ "models" "folders" ] (path: [ path ]))
      (changed [ "nodes" "custom" ] [ "customNodes" ] (packages:
        lib.mapAttrs onlyOne (lib.groupBy lib.getName packages)))
      (removed [ "nodes" "enable" ] "services.comfyui-xpu.customNodes.<name> = <package>;")
      (removed [ "models" "autoDownload" ]
        "services.comfyui-xpu.models.files.\"checkpoints/<file>\" = { url = ...; hash = ...; };")
      (removed [ "models" "cache" "enable" ] "nothing, it had no effect.")
      (removed [ "models" "cache" "size" ] "nothing, it had no effect.")
      (removed [ "optimization" "level" ] "nothing, PyTorch's XPU build optimises by itself.")
      (removed [ "optimization" "precision" ]
        "the precision of the XPU loader nodes, or services.comfyui-xpu.extraArgs = [ \"--bf16-unet\" ];")
      (removed [ "optimization" "jitCompile" ] "nothing, it had no effect.")
      (removed [ "server" "cors" ] "services.comfyui-xpu.extraArgs = [ \"--enable-cors-header\" ];")
      (removed [ "server" "maxUploadSize" ] "services.comfyui-xpu.extraArgs = [ \"--max-upload-size=100\" ];")
      (mkRenamedOptionModule (oldOllama [ "enable" ]) (new [ "ollama" "enable" ]))
      (mkRenamedOptionModule (oldOllama [ "package" ]) [ "services" "ollama" "package" ])
      (mkRenamedOptionModule (oldOllama [ "host" ]) [ "services" "ollama" "host" ])
      (mkRenamedOptionModule (oldOllama [ "port" ]) [ "services" "ollama" "port" ])
      (mkRenamedOptionModule (oldOllama [ "models" ]) [ "services" "ollama" "models" ])
      (mkRenamedOptionModule (oldOllama [ "user" ]) [ "services" "ollama" "user" ])
      (mkRenamedOptionModule (oldOllama [ "group" ]) [ "services" "ollama" "group" ])
      (gone (oldOllama [ "acceleration" ]) "nothing, pkgs.ollama-xpu uses Vulkan.")
      (removedIpex "enable" "services.comfyui-xpu.enable = true; it brings the driver.")
      (removedIpex "autoDetectHardware" "nothing, PyTorch finds the GPU.")
      (removedIpex "devices" "services.comfyui-xpu.acceleration = \"xpu\"; or \"cpu\".")
      (removedIpex "optimization" "nothing, it had no effect.")
      (removedUser "enable" "services.comfyui-xpu.enable = true; of this flake's Home Manager module.")
      (removedUser "user" "the user whose Home Manager has services.comfyui-xpu.enable = true;")
      (removedUser "port" "services.comfyui-xpu.port of this flake's Home Manager module.")
      (removedUser "dataDir" "services.comfyui-xpu.dataDir of this flake's Home Manager module.")
    ];
}

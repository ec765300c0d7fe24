# Options that the NixOS service and the Home Manager service share.
{ lib, pkgs, cfg, dataDir }:
let
  inherit (lib) mkEnableOption mkOption types;
  inherit (import ./lib.nix) fromOverlay;
in
{
  enable = mkEnableOption "ComfyUI for Intel GPUs";

  package = mkOption {
    type = types.package;
    default = fromOverlay pkgs "comfyui-xpu";
    defaultText = lib.literalExpression "pkgs.comfyui-xpu";
    description = "ComfyUI with this pack: `pkgs.comfyui-xpu` or an override of it.";
  };

  acceleration = mkOption {
    type = types.enum [ "xpu" "cpu" ];
    default = cfg.package.acceleration or "xpu";
    defaultText = lib.literalExpression "package.acceleration";
    description = "Where models run.";
  };

  host = mkOption {
    type = types.coercedTo types.str lib.singleton (types.listOf types.str);
    default = "127.0.0.1";
    example = [ "127.0.0.1" "::1" ];
    description = "Address or addresses to listen on. ComfyUI knows no passwords: open it to networks you trust.";
  };

  port = mkOption {
    type = types.port;
    default = 8188;
    description = "Port to listen on.";
  };

  dataDir = mkOption {
    type = types.str;
    default = dataDir;
    description = "The folder the service writes to: models, nodes, input, output and its database.";
  };

  models = {
    files = mkOption {
      type = types.attrsOf (types.submodule {
        options = {
          url = mkOption {
            type = types.nullOr types.str;
            default = null;
            description = "Where to get the file.";
          };
          hash = mkOption {
            type = types.nullOr types.str;
            default = null;
            example = "sha256-CaJ0HKxKIkDt0sCUrvBbzuRbs4SESgJuHZMGBEq8fEw=";
            description = "Hash of what `url` gives.";
          };
          path = mkOption {
            type = types.nullOr types.path;
            default = null;
            description = ''
              A file that is already there, instead of `url`: linked where it is when written as a string,
              copied into the store when written as a path without quotes.
            '';
          };
        };
      });
      default = { };
      example = lib.literalExpression ''
        { "checkpoints/model.safetensors" = { url = "https://..."; hash = "sha256-..."; }; }
      '';
      description = "Model files by their place below `models`.";
    };
    folders = mkOption {
      type = types.listOf types.str;
      default = [ ];
      example = [ "/srv/models" ];
      description = "Further folders that are laid out like ComfyUI's `models`; they are only read.";
    };
  };

  customNodes = mkOption {
    type = types.attrsOf types.package;
    default = { };
    example = lib.literalExpression "{ ComfyUI-GGUF = pkgs.fetchFromGitHub { ... }; }";
    description = ''
      Further node packs, by the name of their folder. Python packages that one needs are read from its
      `pythonDependencies` (a function like `python: [ python.gguf ]`) or written into `extraPackages`.
    '';
  };

  extraPackages = mkOption {
    type = types.functionTo (types.listOf types.package);
    default = _: [ ];
    defaultText = lib.literalExpression "_: [ ]";
    example = lib.literalExpression "python: [ python.gguf ]";
    description = "Further Python packages.";
  };

  extraArgs = mkOption {
    type = types.listOf types.str;
    default = [ ];
    example = [ "--preview-method=auto" ];
    description = "Further arguments for ComfyUI.";
  };

  environment = mkOption {
    type = types.attrsOf types.str;
    default = { };
    example = { UR_L0_ENABLE_RELAXED_ALLOCATION_LIMITS = "1"; };
    description = "Further environment variables.";
  };

  device = {
    selector = mkOption {
      type = types.str;
      default = "level_zero:gpu";
      description = "ONEAPI_DEVICE_SELECTOR: which devices PyTorch sees. It uses Level Zero only.";
    };
    affinity = mkOption {
      type = types.nullOr types.str;
      default = null;
      example = "0";
      description = "ZE_AFFINITY_MASK: devices and tiles that Level Zero shows.";
    };
  };

  ollama = {
    hosts = mkOption {
      type = types.listOf types.str;
      default = [ "http://127.0.0.1:11434" ];
      description = "Ollama servers that the node XPUOllamaPrompt may ask; a graph can name no other.";
    };
    shareGpu = mkOption {
      type = types.bool;
      default = true;
      description = "Ollama runs on the same GPU: its model is unloaded before sampling starts.";
    };
  };
}

# services.comfyui-xpu. It declares nothing below services.comfyui, which nixpkgs and others own.
{ config, options, lib, pkgs, ... }:
let
  inherit (lib) mkDefault mkEnableOption mkIf mkMerge mkOption optionalAttrs types;
  logic = import ./lib.nix;
  cfg = config.services.comfyui-xpu;
  service = import ./service.nix { inherit lib pkgs cfg; };
  xpu = cfg.acceleration == "xpu";

  neighbour =
    if options.services ? comfyui && (config.services.comfyui.enable or false)
    then config.services.comfyui
    else null;

  # Older nixpkgs choose Ollama's back end with an option, newer ones with the package. A removed option
  # is still declared, but not visible.
  ollamaAcceleration =
    options.services.ollama ? acceleration && (options.services.ollama.acceleration.visible or true) != false;

  ollamaPackage = (logic.fromOverlay pkgs "ollama-xpu").override { acceleration = cfg.ollama.backend; };
  # nixpkgs' package throws at a back end that it does not know.
  ollamaHasBackend = !cfg.ollama.enable || !(pkgs ? ollama-xpu) || (builtins.tryEval "${ollamaPackage}").success;

  # `declared`: users or groups of the system.
  declares = declared: name: lib.elem name (lib.mapAttrsToList (attribute: entry: entry.name or attribute) declared);

  inherit (service) unit;
  # What runs on this machine: a server, or Ray, which starts servers.
  plain = cfg.ray.role == null;
  main = if plain then "comfyui-xpu" else "comfyui-xpu-ray";
in
{
  imports = [ ./renamed.nix ./ray.nix ];

  options.services.comfyui-xpu = lib.recursiveUpdate
    (import ./options.nix { inherit lib pkgs cfg; dataDir = "/var/lib/comfyui-xpu"; })
    {
      user = mkOption {
        type = types.str;
        default = "comfyui-xpu";
        description = "User of the service; the default one is created, another is yours to declare.";
      };
      group = mkOption {
        type = types.str;
        default = "comfyui-xpu";
        description = "Group of the service; the default one is created, another is yours to declare.";
      };
      finalPackage = mkOption {
        type = types.package;
        readOnly = true;
        internal = true;
        default = service.package;
        description = "The package with `acceleration`, nodes and Python packages as they are set.";
      };
      openFirewall = mkEnableOption "access to the port from other machines";
      healthCheck = mkOption {
        type = types.bool;
        default = true;
        description = ''
          Run the doctor before the service; what it finds: `journalctl -u comfyui-xpu-doctor`. Where the GPU that
          `acceleration` asks for is missing, ComfyUI is not started.
        '';
      };
      ollama.enable = mkEnableOption "Ollama on this machine, for the node XPUOllamaPrompt";
      ollama.backend = mkOption {
        type = types.enum [ "vulkan" "sycl" ];
        default = "vulkan";
        description = "What Ollama computes with; SYCL where nixpkgs' Ollama has it, which none had in November 2026.";
      };
    };

  config = mkIf cfg.enable (mkMerge [
    {
      assertions = map (message: { assertion = false; inherit message; }) (
        logic.problems cfg
        ++ logic.systemProblems {
          inherit cfg neighbour ollamaHasBackend;
          hasUser = declares config.users.users cfg.user;
          hasGroup = declares config.users.groups cfg.group;
          ollamaPort = config.services.ollama.port or null;
        }
      );

      systemd.services = mkIf plain {
        comfyui-xpu = lib.recursiveUpdate unit {
          description = "ComfyUI for Intel GPUs";
          unitConfig = logic.startLimit;
          wantedBy = [ "multi-user.target" ];
          after = [ "network.target" ];
          environment.HOME = cfg.dataDir;
          serviceConfig = {
            ExecStartPre = "${service.link}";
            ExecStart = service.command;
            Restart = "on-failure";
            RestartSec = "5s";
          };
        };
      };

      # comfyui-xpu-doctor and comfyui-xpu-bench, with the service's Python.
      environment.systemPackages = [ cfg.finalPackage ];

      systemd.tmpfiles.settings.comfyui-xpu.${cfg.dataDir}.d = {
        inherit (cfg) user group;
        mode = "0750";
      };

      users.users = optionalAttrs (cfg.user == "comfyui-xpu") {
        comfyui-xpu = { isSystemUser = true; inherit (cfg) group; home = cfg.dataDir; };
      };
      users.groups = optionalAttrs (cfg.group == "comfyui-xpu") { comfyui-xpu = { }; };

      networking.firewall.allowedTCPPorts = mkIf cfg.openFirewall [ cfg.port ];
    }

    (mkIf xpu {
      hardware.graphics = {
        enable = true;
        extraPackages = [
          pkgs.intel-compute-runtime
          # Level Zero's driver is an output of its own, where nixpkgs splits the package.
          (pkgs.intel-compute-runtime.drivers or pkgs.intel-compute-runtime)
          pkgs.level-zero
          pkgs.intel-graphics-compiler
        ];
      };
    })

    (mkIf cfg.healthCheck {
      systemd.services.comfyui-xpu-doctor = lib.recursiveUpdate unit {
        description = "Look for what keeps ComfyUI from the Intel GPU";
        # Without the GPU that was asked for, ComfyUI fails at once, again and again.
        requiredBy = [ "${main}.service" ];
        before = [ "${main}.service" ];
        environment.HOME = cfg.dataDir;
        serviceConfig = {
          Type = "oneshot";
          RemainAfterExit = true;  # once is enough, however often ComfyUI starts again
          ExecStart = service.doctor;
          # Warnings and errors are for the journal: they neither fail a switch of the system nor hold up the server.
          # 3 is a missing GPU.
          SuccessExitStatus = [ 1 2 ];
          TimeoutStartSec = "3min";
        };
      };
    })

    (mkIf cfg.ollama.enable {
      # Mesa's Vulkan driver, which Ollama needs also where models run on the CPU.
      hardware.graphics.enable = true;
      services.ollama = {
        enable = true;
        package = mkDefault ollamaPackage;
        # nixpkgs' wrapper does not set it on every version.
        environmentVariables = lib.mapAttrs (_: mkDefault) (
          optionalAttrs (cfg.ollama.backend == "vulkan") { OLLAMA_VULKAN = "1"; }
          // optionalAttrs cfg.ollama.shareGpu { OLLAMA_KEEP_ALIVE = "0"; OLLAMA_MAX_LOADED_MODELS = "1"; }
        );
      } // optionalAttrs (ollamaAcceleration && ollamaHasBackend) { acceleration = mkDefault cfg.ollama.backend; };
      services.comfyui-xpu.ollama.hosts =
        let inherit (config.services.ollama) host port; in mkDefault [ (logic.urlOf host port) ];
      systemd.services.${main}.after = [ "ollama.service" ];
    })
  ]);
}

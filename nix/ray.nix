# services.comfyui-xpu.ray: this machine is one of a Ray cluster's, which starts its ComfyUI servers in place of the
# plain one; `serve` gives them one address. The options of the service say where and with what.
{ config, lib, pkgs, ... }:
let
  inherit (lib) mkEnableOption mkIf mkOption types;
  logic = import ./lib.nix;
  cfg = config.services.comfyui-xpu;
  inherit (cfg) ray;
  service = import ./service.nix { inherit lib pkgs cfg; };

  # Of every machine; all that Ray listens on for others.
  nodeManagerPort = ray.port + 1;
  objectManagerPort = ray.port + 2;
  ownPorts = { from = ray.port; to = objectManagerPort; };
  workerPorts = { from = 10002; to = 10999; };
  isWithin = port: range: range.from <= port && port <= range.to;
  folder = "/var/cache/comfyui-xpu-ray";
  cluster = "${toString ray.address}:${toString ray.port}";
  is = role: ray.role == role;

  # %d is where systemd lays a copy for this unit only.
  credential = name: file: lib.optional (file != null) "${name}:${file}";
  unit = lib.recursiveUpdate service.unit {
    environment = {
      HOME = cfg.dataDir;
      COMFYUI_PATH = "${service.workersComfyui}";
      RAY_AUTH_MODE = "token";
      RAY_AUTH_TOKEN_PATH = "%d/ray";
      RAY_USAGE_STATS_ENABLED = "0";
      RAY_memory_monitor_refresh_ms = "0";  # ComfyUI itself drops models where memory gets short
    };
    unitConfig.StartLimitIntervalSec = 0;  # one waits for the other machine, however long that is away
    serviceConfig = {
      LoadCredential = credential "ray" ray.tokenFile;
      CacheDirectory = "comfyui-xpu-ray";
      CacheDirectoryMode = "0700";
      # Which addresses the machine has, Ray asks the kernel.
      RestrictAddressFamilies = service.unit.serviceConfig.RestrictAddressFamilies ++ [ "AF_NETLINK" ];
      Restart = "on-failure";
      RestartSec = "10s";
    };
  };

  start = [ "${service.package}/bin/comfyui-xpu-ray" "start" "--block" "--disable-usage-stats" ]
    ++ (if is "head" then [
      "--head" "--node-ip-address=${toString ray.address}" "--port=${toString ray.port}" "--include-dashboard=false"
    ] else [ "--address=${cluster}" ])
    ++ [
      "--node-manager-port=${toString nodeManagerPort}"
      "--object-manager-port=${toString objectManagerPort}"
      "--min-worker-port=${toString workerPorts.from}"
      "--max-worker-port=${toString workerPorts.to}"
      "--temp-dir=${folder}"
    ];

  serve = [
    "${service.package}/bin/comfyui-xpu-serve"
    "--address=${cluster}" "--listen=${lib.head (logic.addresses cfg)}" "--port=${toString cfg.port}"
    "--out=${cfg.dataDir}/serve"
  ];

  tokenProblems = option: file:
    logic.unless (file == null || logic.hasPrefix "/" file)
      "${option}: ${toString file} is not an absolute path; write that of a file on the machine."
    ++ logic.unless (file == null || !logic.isBelow builtins.storeDir file)
      "${option}: ${toString file} lies in the store, where everybody reads it; choose a file outside."
    ++ logic.unless (file == null || logic.isPlain file)
      "${option}: ${toString file} cannot be used; choose a path without blanks, colons, quotes or %.";

  problems = map (problem: "${logic.namespace}.${problem}") (
    if ray.role == null then
      logic.unless (!ray.serve.enable)
        "ray.serve: there are no workers without a cluster; set ${logic.namespace}.ray.role."
    else
      logic.unless (ray.address != null && builtins.match "[0-9A-Za-z][0-9A-Za-z.-]*" ray.address != null)
        "ray.address: ${builtins.toJSON ray.address} is not the head's address; write one like 192.168.1.10."
      ++ logic.unless (ray.tokenFile != null)
        ("ray.tokenFile: whoever reaches a cluster without a token runs programs on all of its machines; "
          + "write one with: ray get-auth-token --generate, and name the file.")
      ++ tokenProblems "ray.tokenFile" ray.tokenFile
      ++ tokenProblems "ray.serve.tokenFile" ray.serve.tokenFile
      ++ logic.unless (!(cfg.openFirewall && !ray.serve.enable))
        "openFirewall: on a machine of a cluster only ray.serve listens there; enable it, or set openFirewall to false."
      ++ logic.unless (!(ray.serve.enable && builtins.length (logic.addresses cfg) != 1))
        "host: ray.serve listens on one address; write one."
      ++ logic.unless
        (!ray.serve.enable || ray.serve.tokenFile != null || builtins.all logic.isLoopback (logic.addresses cfg))
        "ray.serve.tokenFile: other machines reach ${lib.head (logic.addresses cfg)}; name the file of a token."
      ++ logic.unless
        ((objectManagerPort < workerPorts.from || (workerPorts.to < ray.port && objectManagerPort <= 65535))
          && !(ray.serve.enable && builtins.any (isWithin cfg.port) [ ownPorts workerPorts ]))
        "ray.port: Ray takes three ports from ${toString ray.port} on and those from 10002 to 10999; choose another."
  );
in
{
  options.services.comfyui-xpu.ray = {
    role = mkOption {
      type = types.nullOr (types.enum [ "head" "worker" ]);
      default = null;
      description = ''
        Make this machine one of a Ray cluster, of which one is the head. Ray then starts ComfyUI, one server for each
        GPU, whenever there are jobs; no other runs here.
      '';
    };
    address = mkOption {
      type = types.nullOr types.str;
      default = null;
      example = "192.168.1.10";
      description = "Address of the head, on all machines the same.";
    };
    port = mkOption {
      type = types.port;
      default = 6379;
      description = "Port of the head; every machine also takes the next two, and 10002 to 10999.";
    };
    interface = mkOption {
      type = types.nullOr types.str;
      default = null;
      example = "enp2s0";
      description = "Network interface at which the firewall lets Ray's ports through: of a network you trust.";
    };
    tokenFile = mkOption {
      type = types.nullOr types.str;
      default = null;
      example = "/run/secrets/ray-token";
      description = "A file outside the store with the cluster's token, on all machines the same.";
    };
    serve = {
      enable = mkEnableOption "one address that speaks ComfyUI's API for the whole cluster, at `host` and `port`";
      tokenFile = mkOption {
        type = types.nullOr types.str;
        default = null;
        example = "/run/secrets/comfyui-token";
        description = "A file outside the store with the token that clients need; for any address but loopback.";
      };
      extraArgs = mkOption {
        type = types.listOf types.str;
        default = [ ];
        example = [ "--least=2" ];
        description = "Further arguments of `serve`.";
      };
    };
  };

  config = mkIf cfg.enable {
    assertions = map (message: { assertion = false; inherit message; }) problems;

    networking.firewall.interfaces = mkIf (ray.role != null && ray.interface != null) {
      ${toString ray.interface} = {
        allowedTCPPorts = lib.optional (is "head") ray.port ++ [ nodeManagerPort objectManagerPort ];
        allowedTCPPortRanges = [ workerPorts ];
      };
    };

    # Ray leaves the logs of each start.
    systemd.tmpfiles.settings = mkIf (ray.role != null) {
      comfyui-xpu.${folder}.d = { inherit (cfg) user group; mode = "0700"; age = "10d"; };
    };

    systemd.services = mkIf (ray.role != null) ({
      comfyui-xpu-ray = lib.recursiveUpdate unit {
        description = "Ray, which starts ComfyUI for Intel GPUs";
        wantedBy = [ "multi-user.target" ];
        after = [ "network-online.target" ];
        wants = [ "network-online.target" ];
        serviceConfig = {
          ExecStartPre = "${service.link}";
          ExecStart = logic.execCommand start;
        };
      };
    } // lib.optionalAttrs ray.serve.enable {
      comfyui-xpu-serve = lib.recursiveUpdate unit {
        description = "One address for ComfyUI on many machines";
        wantedBy = [ "multi-user.target" ];
        after = [ "comfyui-xpu-ray.service" ];
        # Its part of Ray, with which it ends and starts again.
        requires = [ "comfyui-xpu-ray.service" ];
        serviceConfig = {
          LoadCredential = unit.serviceConfig.LoadCredential ++ credential "serve" ray.serve.tokenFile;
          ExecStart = logic.execCommand (serve ++ ray.serve.extraArgs)
            + lib.optionalString (ray.serve.tokenFile != null) " --token-file=%d/serve";
        };
      };
    });
  };
}

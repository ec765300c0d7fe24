# What both services run, made from the options' values.
{ lib, pkgs, cfg }:
let
  logic = import ./lib.nix;
  dependencies = python:
    cfg.extraPackages python
    ++ lib.optional ((cfg.ray.role or null) != null) python.ray
    ++ lib.concatMap (node: (node.pythonDependencies or (_: [ ])) python) (lib.attrValues cfg.customNodes);
  modelFile = name: file:
    # A path that is no string is copied into the store, which keeps it as long as the system needs it.
    if file.path != null then "${file.path}"
    else pkgs.fetchurl { inherit (file) url hash; name = baseNameOf name; };
in
rec {
  package =
    lib.throwIfNot (cfg.package ? override && lib.functionArgs cfg.package.override ? acceleration)
      "${logic.namespace}.package: ${cfg.package.name} cannot take customNodes and acceleration; use pkgs.comfyui-xpu."
      (cfg.package.override (old: {
        inherit (cfg) acceleration;
        extraPackages = python: (old.extraPackages or (_: [ ])) python ++ dependencies python;
      }));

  modelPaths =
    if cfg.models.folders == [ ] then null
    else pkgs.writeText "comfyui-model-folders.yaml" (logic.modelPaths cfg.models.folders);

  command = logic.execCommand (
    [ "${package}/bin/comfyui-xpu" ] ++ logic.arguments { inherit cfg modelPaths; }
  );

  doctor = "${package}/bin/comfyui-xpu-doctor" + lib.optionalString (cfg.acceleration == "xpu") " --need xpu";

  link = pkgs.writeShellScript "comfyui-xpu-link" (
    "PATH=${lib.makeBinPath [ pkgs.coreutils pkgs.findutils ]}\n"
    + logic.linkScript {
      inherit (cfg) dataDir;
      inherit (builtins) storeDir;
      nodes = cfg.customNodes;
      models = lib.mapAttrs modelFile cfg.models.files;
    }
  );

  environment = logic.environment cfg;

  # Of NixOS alone, which knows users.
  unit = {
    inherit environment;
    serviceConfig = logic.hardening cfg // {
      User = cfg.user;
      Group = cfg.group;
      WorkingDirectory = cfg.dataDir;
    };
    # Where it lies on a disk of its own, or on the network.
    unitConfig.RequiresMountsFor = lib.filter logic.isPlain (map ({ path, ... }: path) (logic.usedPaths cfg));
  };

  # A ComfyUI's folder for workers, which write their own options: its main.py adds what this service's would have.
  workersComfyui = pkgs.linkFarm "comfyui-for-workers" {
    "custom_nodes/xpu-nodes" = pkgs.comfyui-xpu-nodes;  # here already: a worker need not add it
    "main.py" = pkgs.writeText "main.py" (logic.workersMain {
      inherit (cfg) extraArgs;
      program = "${package.server}/share/comfyui";
      paths = [
        "${package.nodePaths}"
        "${pkgs.writeText "workers-paths.yaml" (logic.modelPaths ([ "${cfg.dataDir}/models" ] ++ cfg.models.folders))}"
        "${pkgs.writeText "workers-nodes.yaml" (builtins.toJSON {
          data = { base_path = cfg.dataDir; custom_nodes = "custom_nodes"; };
        })}"
      ];
    });
  };
}

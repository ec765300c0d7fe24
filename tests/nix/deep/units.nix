# The unit files of nix/checks/vm.nix's machine as NixOS would write them, its temporary-files rules and its script.
{ python, site, host, bash, path }:
let
  lib = import ../lib.nix;
  pkgs = import ../nixpkgs {
    overlays = [ (import ../buildable.nix { inherit python site host bash path; }) (import ../../../nix/overlay.nix) ];
  };
  inherit ((pkgs.callPackage ../../../nix/checks/vm.nix { }).test) nodes testScript;
  inherit ((import ./system.nix { inherit pkgs; settings = { inherit (nodes.machine) services; }; })) config;

  value = given: if builtins.isBool given then lib.boolToString given else toString given;
  # As NixOS does: every setting on a line of its own, a list on as many.
  section = name: settings: "[${name}]\n" + lib.concatStrings (lib.concatLists (lib.mapAttrsToList
    (key: given: map (one: "${key}=${value one}\n") (lib.toList given))
    (lib.filterAttrs (_: given: given != null && given != [ ]) settings)));
  environment = lib.mapAttrsToList (name: given: builtins.toJSON "${name}=${given}");
  unit = name: service: pkgs.writeText "${name}.service" (
    section "Unit" ({ Description = service.description; After = service.after; Before = service.before or [ ]; }
      // (service.unitConfig or { }))
    + section "Service" ({ Environment = environment service.environment; } // service.serviceConfig)
  );
  services = config.systemd.services;
  wants = kind: attribute: lib.concatLists (lib.mapAttrsToList
    (name: service: map (by: "mkdir -p $out/${by}.${kind}; ln -s ../${name}.service $out/${by}.${kind}/")
      (service.${attribute} or [ ]))
    services);
  rules = lib.concatLists (map (lib.mapAttrsToList (path: rule: { inherit path; inherit (rule) d; }))
    (lib.attrValues config.systemd.tmpfiles.settings));
in
{
  units = pkgs.runCommand "units" { } (lib.concatStringsSep "\n" (
    [ "mkdir $out" ]
    # What every service depends on; here there is nothing else to wait for.
    ++ map (target: "printf '[Unit]\\nDescription=Nothing more\\n' > $out/${target}.target")
      [ "basic" "multi-user" "network" "shutdown" "sysinit" ]
    ++ lib.mapAttrsToList (name: service: "cp ${unit name service} $out/${name}.service") services
    ++ wants "wants" "wantedBy" ++ wants "requires" "requiredBy"
  ));
  tmpfiles = pkgs.writeText "tmpfiles.conf" (lib.concatMapStrings
    ({ path, d }: "d ${path} ${d.mode} ${d.user} ${d.group} - -\n") rules);
  script = pkgs.writeText "script.py" testScript;
}

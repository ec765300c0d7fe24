# The pure half of the packaging: builtins only, so that it can be tested without nixpkgs. Patterns are such that the
# evaluator on PyPI reads them alike: no backslash within brackets, alternatives within parentheses.
# `cfg` is the value of `services.comfyui-xpu` (NixOS and Home Manager share it).
rec {
  namespace = "services.comfyui-xpu";

  # What only our overlay has.
  fromOverlay = pkgs: name: pkgs.${name} or (throw
    "${namespace} needs pkgs.${name}, which this nixpkgs lacks: put overlays.default in nixpkgs.overlays.");

  isLoopback = host: builtins.match "(127(\\.[0-9]+){3}|::1|localhost)" host != null;

  # The addresses of `host`, which the module system has made a list.
  addresses = cfg: if builtins.isList cfg.host then cfg.host else [ cfg.host ];

  # The address at which this machine reaches a server that listens on `host` and `port`.
  urlOf = host: port:
    let
      name =
        if builtins.elem host [ "0.0.0.0" "::" "[::]" ] then "127.0.0.1"
        else if builtins.match "[^[]*:.*" host != null then "[${host}]"
        else host;
    in
    "http://${name}:${toString port}";

  # http or https, a name or number, perhaps a port; no user, path or query.
  isAddress = text:
    let
      parts = builtins.match "https?://([A-Za-z0-9._-]+|\\[[0-9A-Fa-f:.]+])(:([1-9][0-9]{0,4}))?" text;
      port = builtins.elemAt parts 2;
    in
    parts != null && (port == null || builtins.fromJSON port <= 65535);

  hasPrefix = prefix: text: builtins.substring 0 (builtins.stringLength prefix) text == prefix;

  isBelow = folder: path: path == folder || hasPrefix "${folder}/" path;

  shellQuote = text: "'${builtins.replaceStrings [ "'" ] [ "'\\''" ] (toString text)}'";

  # A command as systemd reads it (systemd.service(5)): quoted, and neither specifiers nor variables in it.
  execCommand = arguments: builtins.concatStringsSep " "
    (map (text: builtins.replaceStrings [ "$" ] [ "$$" ] (unitText (builtins.toJSON (toString text)))) arguments);

  unitText = builtins.replaceStrings [ "%" ] [ "%%" ];

  # Command line of ComfyUI; `modelPaths` is the file that names further model folders, or null.
  arguments = { cfg, modelPaths ? null }:
    [
      "--base-directory=${cfg.dataDir}"
      "--database-url=sqlite:///${cfg.dataDir}/user/comfyui.db"
      "--listen=${builtins.concatStringsSep "," (addresses cfg)}"
      "--port=${toString cfg.port}"
    ]
    ++ (if modelPaths == null then [ ] else [ "--extra-model-paths-config=${modelPaths}" ])
    ++ (if cfg.acceleration == "cpu" then [ "--cpu" ] else [ ])
    ++ cfg.extraArgs;

  # The main.py of a folder that stands for ComfyUI's: it starts the real one with more arguments.
  workersMain = { program, paths, extraArgs }: ''
    import runpy
    import sys

    sys.argv[0] = ${builtins.toJSON "${program}/main.py"}
    sys.argv += ["--extra-model-paths-config", *${builtins.toJSON paths}, *${builtins.toJSON extraArgs}]
    sys.path[0] = ${builtins.toJSON program}
    runpy.run_path(sys.argv[0], run_name="__main__")
  '';

  environment = cfg: builtins.mapAttrs (_: unitText) (
    {
      # The nodes lie in the store: there is nowhere to write bytecode.
      PYTHONDONTWRITEBYTECODE = "1";
      XPU_NODES_OLLAMA_HOSTS = builtins.concatStringsSep "," cfg.ollama.hosts;
      XPU_NODES_OLLAMA_SHARES_DEVICE = if cfg.ollama.shareGpu then "1" else "0";
      # /tmp, where it would be, is another one after each start.
      TORCHINDUCTOR_CACHE_DIR = "${cfg.dataDir}/.cache/torchinductor";
    }
    // (if cfg.acceleration == "cpu" then { } else deviceEnvironment cfg)
    // cfg.environment
  );

  deviceEnvironment = { device, dataDir, ... }:
    {
      # Sysman before the driver starts: without it no free memory is reported on some cards.
      ZES_ENABLE_SYSMAN = "1";
      ONEAPI_DEVICE_SELECTOR = device.selector;
      # SYCL keeps no compiled kernels unless told to.
      SYCL_CACHE_PERSISTENT = "1";
      SYCL_CACHE_DIR = "${dataDir}/.cache/libsycl_cache";
    }
    // (if device.affinity == null then { } else { ZE_AFFINITY_MASK = device.affinity; });

  # Shell lines that put what was declared into the writable folder. Links into the store are ours:
  # they are made anew each time, so that what is no longer declared goes away. Anything else in a
  # link's place is the user's, and stops the start instead of being replaced.
  linkScript = { dataDir, nodes, models, storeDir ? "/nix/store" }:
    let
      link = target: source: ''
        mkdir -p ${shellQuote (dirOf target)}
        if [ -e ${shellQuote target} ] && [ ! -L ${shellQuote target} ]; then
          echo ${shellQuote "${target} is in the way of what ${namespace} declares: move it away."} >&2
          exit 1
        fi
        ln -sfn ${shellQuote source} ${shellQuote target}
      '';
      links = folder: sources:
        map (name: link "${dataDir}/${folder}/${name}" sources.${name}) (builtins.attrNames sources);
    in
    ''
      set -eu
      for folder in custom_nodes input models output user; do
        mkdir -p ${shellQuote dataDir}/"$folder"
        # As after a move from another service, whose user they belong to.
        if [ ! -w ${shellQuote dataDir}/"$folder" ]; then
          echo ${shellQuote dataDir}/"$folder belongs to $(stat -c %U ${shellQuote dataDir}/"$folder"): run" \
            "chown -R $(id -un):$(id -gn)" ${shellQuote dataDir} ${shellQuote "or set ${namespace}.user."} >&2
          exit 1
        fi
      done
      find -H ${shellQuote "${dataDir}/custom_nodes"} ${shellQuote "${dataDir}/models"} \
        -type l -lname ${shellQuote "${storeDir}/*"} -delete
    ''
    + builtins.concatStringsSep "" (links "custom_nodes" nodes ++ links "models" models);

  # ComfyUI's extra_model_paths.yaml, as JSON (which is YAML): every folder is laid out like `models`.
  modelPaths = folders:
    builtins.toJSON (builtins.listToAttrs (map
      (path: {
        name = path;
        value = { base_path = path; }
          // builtins.listToAttrs (map (name: { inherit name; value = name; }) modelFolders)
          // builtins.mapAttrs (name: older: "${name}\n${older}") olderModelFolders;
      })
      folders));

  modelFolders = [
    "audio_encoders" "checkpoints" "classifiers" "clip_vision" "configs" "diffusers" "embeddings" "gligen"
    "hypernetworks" "latent_upscale_models" "loras" "model_patches" "photomaker" "style_models" "upscale_models"
    "vae" "vae_approx"
  ];

  # Kinds of models that ComfyUI also looks for under an older folder name.
  olderModelFolders = { controlnet = "t2i_adapter"; diffusion_models = "unet"; text_encoders = "clip"; };

  # Arguments of ComfyUI that an option of ours writes, with the option.
  ownedArguments = {
    "--listen" = "host";
    "--port" = "port";
    "--cpu" = "acceleration";
    "--base-directory" = "dataDir";
    "--database-url" = "dataDir";
    "--extra-model-paths-config" = "models.folders";
    "--oneapi-device-selector" = "device.selector";
  };

  # Arguments of ComfyUI that make no sense for a service on an Intel GPU, with why.
  uselessArguments = {
    "--auto-launch" = "opens a browser, which a service has not";
    "--windows-standalone-build" = "opens a browser, which a service has not";
    "--quick-test-for-ci" = "ends ComfyUI as soon as it has started";
    "--disable-all-custom-nodes" = "leaves this pack out, too";
    "--cuda-device" = "chooses among NVIDIA's cards only; device.affinity chooses among Intel's";
  };

  ownedEnvironment = {
    PYTHONPATH = "extraPackages";
    ONEAPI_DEVICE_SELECTOR = "device.selector";
    ZE_AFFINITY_MASK = "device.affinity";
    XPU_NODES_OLLAMA_HOSTS = "ollama.hosts";
    XPU_NODES_OLLAMA_SHARES_DEVICE = "ollama.shareGpu";
  };

  # What is wrong with a configuration: a list of sentences, each naming the option to change.
  problems = cfg: map (problem: "${namespace}.${problem}") (builtins.concatLists [
    (placeProblems cfg)
    (nodeProblems cfg.customNodes)
    (modelProblems cfg)
    (argumentProblems cfg)
    (deviceProblems cfg)
    (ollamaProblems cfg.ollama)
  ]);

  unless = condition: sentence: if condition then [ ] else [ sentence ];

  placeProblems = cfg:
    pathProblems cfg
    ++ writableProblems "dataDir" cfg.dataDir
    ++ unless (builtins.match "/([^/]+|var/(lib|cache|log)|nix/var)" cfg.dataDir == null)
      "dataDir: ${cfg.dataDir} lies among the system's own folders; choose one further down, such as /srv/comfyui."
    ++ builtins.concatMap (writableProblems "extraArgs") (writtenFolders cfg)
    ++ hiddenProblems cfg [ "/tmp" "/var/tmp" ]
    ++ unless (cfg.port != 0)
      "port: 0 would be another one at each start; choose one from 1024 on."
    ++ unless (addresses cfg != [ ])
      "host: there must be an address to listen on, such as 127.0.0.1."
    ++ builtins.concatMap
      (host: unless (host != "" && builtins.match "(.*(/|,|\\[|]|[[:space:]]).*|[^:]*:[^:]*)" host == null)
        ("host: ${builtins.toJSON host} is not an address; write each alone, without brackets, "
          + "and the port into ${namespace}.port."))
      (addresses cfg);

  # A second spelling of a folder would pass what is refused of it.
  pathProblems = cfg: builtins.concatMap
    ({ option, path }:
      unless (hasPrefix "/" path && builtins.match ".*/\\.\\.?(/.*)?" path == null)
        "${option}: ${path} is not an absolute path without dots."
      ++ unless (path == "/" || builtins.match ".*/(/.*)?" path == null)
        "${option}: ${path} has a slash too many; write none at the end and no two together.")
    (usedPaths cfg);

  writableProblems = option: folder:
    unless (!isBelow "/nix/store" folder)
      "${option}: ${folder} lies in the read-only store; choose a writable folder."
    ++ unless (folder != "/" && isPlain folder)
      "${option}: ${folder} cannot be used; choose a folder of its own, without blanks, colons, quotes or %.";

  # systemd reads nothing into it.
  isPlain = path: builtins.match ".*([[:space:]:%\"']|\\\\).*" path == null;

  # Folders that the service's hardening shows it empty, and what is needed from below them.
  hiddenProblems = cfg: hidden: builtins.concatMap
    ({ option, path }:
      unless (!builtins.any (folder: isBelow folder path) hidden)
        ("${option}: ${path} is hidden from the service by its hardening; "
          + "choose a place outside ${builtins.concatStringsSep ", " hidden}."))
    (usedPaths cfg);

  # Everything of the user's that the service reads or writes, with the option that names it. A path that is no
  # string is copied into the store.
  usedPaths = cfg:
    let from = option: map (path: { inherit option path; }); in
    from "dataDir" [ cfg.dataDir ]
    ++ from "extraArgs" (writtenFolders cfg ++ argumentPaths readArguments cfg)
    ++ from "models.folders" cfg.models.folders
    ++ from "models.files" (builtins.filter builtins.isString
      (map (file: file.path) (builtins.attrValues cfg.models.files)));

  # Folders that arguments of ComfyUI send its files to.
  writtenFolders = argumentPaths writtenArguments;

  # Arguments of ComfyUI that name what it writes to and what it reads, as patterns.
  writtenArguments = "--(input|output|temp|user)-directory";
  readArguments = "--(front-end-root|tls-keyfile|tls-certfile)";

  argumentPaths = pattern: cfg: builtins.concatMap
    (argument:
      let parts = builtins.match "${pattern}=(.*)" argument; in
      if parts == null then [ ] else [ (builtins.elemAt parts 1) ])
    cfg.extraArgs;

  nodeProblems = nodes: builtins.concatMap
    (name:
      unless (builtins.match "[A-Za-z0-9_][A-Za-z0-9_.-]*" name != null)
        "customNodes: ${builtins.toJSON name} cannot be a folder's name; use letters, digits, '_', '-' and '.'."
      ++ unless (builtins.match ".*\\.disabled" name == null && name != "__pycache__")
        "customNodes: ComfyUI skips a folder called ${name}; give the node another name."
      ++ unless (name != "xpu-nodes")
        "customNodes: xpu-nodes is this pack, which the package has already; remove it or give it another name."
      ++ unless (name != "websocket_image_save.py")
        "customNodes: ${name} is ComfyUI's own; give the node another name.")
    (builtins.attrNames nodes);

  modelProblems = { models, dataDir, ... }:
    builtins.concatMap
      (name:
        let file = models.files.${name}; in
        unless (builtins.match "[^/.][^/]*(/[^/.][^/]*)+" name != null)
          "models.files: ${builtins.toJSON name} is not folder/file below models, like \"checkpoints/a.safetensors\"."
        ++ unless (!builtins.any (hasPrefix "${name}/") (builtins.attrNames models.files))
          "models.files: ${builtins.toJSON name} would be a file and the folder of another; rename one of them."
        ++ unless ((file.url == null) != (file.path == null))
          "models.files: ${builtins.toJSON name} needs either a url or a path."
        ++ unless (file.url == null || file.hash != null)
          "models.files: ${builtins.toJSON name} needs its url's hash; get it with: nix store prefetch-file URL"
        ++ unless (file.hash == null || builtins.match "sha(256|512)-[A-Za-z0-9+/]+=*" file.hash != null)
          "models.files: the hash of ${builtins.toJSON name} is not of the form sha256-...=."
        ++ unless (file.url == null || builtins.match "(https?|file)://.*" file.url != null)
          "models.files: the url of ${builtins.toJSON name} is not an http, https or file address.")
      (builtins.attrNames models.files)
    ++ builtins.concatMap
      (folder:
        unless (isPlain folder)
          "models.folders: ${folder} cannot be used; choose one without blanks, colons, quotes or %."
        ++ unless (folder != "${dataDir}/models")
          "models.folders: ${folder} is read anyway, as it lies in dataDir; remove it.")
      models.folders;

  argumentProblems = cfg:
    builtins.concatMap
      (argument:
        let name = builtins.head (builtins.match "([^=]*)(=.*)?" argument); in
        unless (!(ownedArguments ? ${name}))
          "extraArgs: ${name} is written by ${namespace}.${ownedArguments.${name}}; set that instead."
        ++ unless (builtins.match "(${writtenArguments}|${readArguments})" argument == null)
          "extraArgs: ${name} and its path must be one argument; write ${name}=/path."
        ++ unless (builtins.match "(--[^=]*[[:space:]].*|.*[[:space:]]--.*)" argument == null)
          "extraArgs: ${builtins.toJSON argument} holds more than one argument; write each as a string of its own."
        ++ unless (!(uselessArguments ? ${name}))
          "extraArgs: ${name} ${uselessArguments.${name}}; remove it.")
      cfg.extraArgs
    ++ builtins.concatMap
      (name:
        unless (!(ownedEnvironment ? ${name}))
          "environment: ${name} is written by ${namespace}.${ownedEnvironment.${name}}; set that instead."
        ++ unless (name != "LD_LIBRARY_PATH" || builtins.match libraryPath cfg.environment.${name} == null)
          "environment: ${name} names the distribution's libraries, whose C library is not Nix's; leave them out."
        ++ unless (builtins.match "[A-Za-z_][A-Za-z0-9_]*" name != null)
          "environment: ${builtins.toJSON name} cannot be a variable's name.")
      (builtins.attrNames cfg.environment);

  # A search path that holds a folder of the distribution's libraries.
  libraryPath = "(.*:)?(/usr)?/lib(32|64)?([/:].*)?";

  deviceProblems = cfg: let opencl = builtins.match "[^!]*opencl[^!]*" cfg.device.selector != null
    && builtins.match ".*level_zero.*" cfg.device.selector == null; in
    unless (!opencl)
      ("device.selector: ${cfg.device.selector} hides every device from PyTorch, "
        + "which uses Level Zero only; write level_zero:gpu.")
    ++ unless (builtins.match "level_zero:(gpu|\\*|[0-9]+(,[0-9]+)*)" cfg.device.selector != null || opencl)
      "device.selector: ${cfg.device.selector} is not understood here; write level_zero:gpu or level_zero:0,1."
    ++ unless (cfg.device.affinity == null
      || builtins.match "[0-9]+(\\.[0-9]+)?(,[0-9]+(\\.[0-9]+)?)*" cfg.device.affinity != null)
      "device.affinity: ${toString cfg.device.affinity} is not a list of devices and tiles, like 0 or 0.1,1."
    ++ unless (cfg.device.affinity == null || cfg.acceleration == "xpu")
      "device.affinity: chooses among GPUs, but ${namespace}.acceleration is cpu; remove one of the two.";

  ollamaProblems = ollama:
    builtins.concatMap
      (host: unless (isAddress host)
        "ollama.hosts: ${host} is not an address; write one like http://127.0.0.1:11434.")
      ollama.hosts;

  # Only for NixOS: what the service's user, firewall and neighbours rule out.
  systemProblems = { cfg, neighbour, ollamaPort, ollamaHasBackend ? true, hasUser ? true, hasGroup ? true }:
  map (problem: "${namespace}.${problem}") (
    unless (cfg.user != "root")
      "user: root would give every node in a graph the whole machine; choose another user."
    ++ unless hasUser
      ("user: nothing declares ${cfg.user}; write "
        + "users.users.${cfg.user} = { isSystemUser = true; group = ${builtins.toJSON cfg.group}; };")
    ++ unless hasGroup
      "group: nothing declares ${cfg.group}; write users.groups.${cfg.group} = { };"
    ++ hiddenProblems cfg [ "/run/user" ]
    ++ builtins.concatMap
      ({ option, path }:
        unless (builtins.match "/(root|home(/[^/]+)?)" path == null)
          "${option}: ${path} would show the service every file of its user; choose a folder of its own below it."
        ++ unless (!(inHomes path) || isPlain path)
          "${option}: ${path} cannot be shown to the service; choose a place without blanks, colons, quotes or %.")
      (usedPaths cfg)
    ++ unless (!(cfg.openFirewall && builtins.all isLoopback (addresses cfg)))
      ("openFirewall: no other machine reaches a server whose ${namespace}.host is "
        + "${builtins.concatStringsSep " and " (addresses cfg)}; set host to 0.0.0.0 or openFirewall to false.")
    ++ unless (!(cfg.ollama.enable && cfg.port == ollamaPort))
      "port: ${toString cfg.port} is Ollama's port too; choose another."
    ++ unless ollamaHasBackend
      "ollama.backend: this nixpkgs' Ollama has no ${cfg.ollama.backend}; use vulkan."
    ++ unless (neighbour == null || (neighbour.port or null) != cfg.port)
      "port: ${toString cfg.port} is services.comfyui's port too; choose another, or disable services.comfyui."
    ++ unless (neighbour == null || (neighbour.dataDir or null) != cfg.dataDir)
      "dataDir: ${cfg.dataDir} is services.comfyui's folder too; two servers in one folder damage its database."
  );

  # A server that fails each time is left alone after the fifth. Each time takes some 20 seconds: within systemd's own
  # ten no fifth start would ever come.
  startLimit = { StartLimitIntervalSec = 300; StartLimitBurst = 5; };

  # systemd settings that keep the server to its folder and the GPU.
  # Not set, because they break the GPU: MemoryDenyWriteExecute (the driver compiles kernels),
  # PrivateUsers (the render group would not be seen), ProcSubset=pid (the driver reads /proc/meminfo).
  # Of /home and /root the service sees nothing but what it is given from there.
  inHomes = path: isBelow "/home" path || isBelow "/root" path;

  hardening = cfg: let written = [ cfg.dataDir ] ++ writtenFolders cfg; in {
    NoNewPrivileges = true;
    PrivateTmp = true;
    PrivateDevices = cfg.acceleration == "cpu";
    DevicePolicy = "closed";
    DeviceAllow = if cfg.acceleration == "cpu" then [ ] else [ "char-drm rw" ];
    SupplementaryGroups = if cfg.acceleration == "cpu" then [ ] else [ "render" "video" ];
    ProtectSystem = "strict";
    ReadWritePaths = builtins.filter (path: !inHomes path) written;
    ProtectHome = "tmpfs";
    BindPaths = builtins.filter inHomes written;
    # Those that are missing are left out.
    BindReadOnlyPaths = map (path: "-${path}") (builtins.filter
      (path: inHomes path && !builtins.elem path written)
      (map ({ path, ... }: path) (usedPaths cfg)));
    ProtectClock = true;
    ProtectControlGroups = true;
    ProtectHostname = true;
    ProtectKernelLogs = true;
    ProtectKernelModules = true;
    ProtectKernelTunables = true;
    ProtectProc = "invisible";
    CapabilityBoundingSet = [ "" ];
    LockPersonality = true;
    RemoveIPC = true;
    RestrictAddressFamilies = [ "AF_INET" "AF_INET6" "AF_UNIX" ];
    RestrictNamespaces = true;
    RestrictRealtime = true;
    RestrictSUIDSGID = true;
    SystemCallArchitectures = "native";
    SystemCallFilter = [ "@system-service" ];
    UMask = "0077";
  };
}

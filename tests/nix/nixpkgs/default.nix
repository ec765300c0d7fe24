# A stand-in for nixpkgs: the names that our packages ask for, as derivations that remember what they were given.
# Nothing here can be built; ../buildable.nix changes that. `generation` is "extra" (nixpkgs' comfyui composes the
# caller's package overrides, 0.37) or "plain" (it replaces them, 0.34).
{ system ? "x86_64-linux", config ? { }, overlays ? [ ], generation ? "extra", backends ? [ "vulkan" ] }:
let
  lib = import ../lib.nix;

  derivation = name: attributes: {
    type = "derivation";
    inherit name;
    outPath = "/nix/store/${name}";
    drvPath = "/nix/store/${name}.drv";
    meta = { };
  } // attributes // (attributes.passthru or { });

  nameOf = arguments: arguments.name or "${arguments.pname}-${arguments.version}";
  mkDerivation = arguments: derivation (nameOf arguments) ({ inherit arguments; } // arguments);

  fetch = arguments: derivation
    (arguments.name or (arguments.pname or (baseNameOf arguments.url)))
    { inherit arguments; inherit (arguments) hash; };

  file = name: text: derivation name { inherit text; };

  pythonPackages = nixpkgs: self:
    lib.genAttrs [
      "filelock" "fsspec" "jinja2" "networkx" "numpy" "ollama" "packaging" "pillow" "psutil" "pytest" "ruff" "mypy"
      "platformdirs" "setuptools" "sympy" "typing-extensions" "aiohttp" "gguf" "ray"
    ] nixpkgs.pythonModule
    // {
      callPackage = lib.callPackageWith (nixpkgs // self);
      buildPythonPackage = mkDerivation;
      inherit (nixpkgs) fetchPypi;
      torch = lib.makeOverridable
        ({ cudaSupport ? true, cudaPackages ? "12" }: derivation "torch-nixpkgs" { inherit cudaSupport cudaPackages; })
        { };
      # torch is among the inputs of its tests.
      safetensors = derivation "safetensors-${self.torch.name}" { };
      torchsde = derivation "torchsde" { overridePythonAttrs = change: derivation "torchsde" (change { }); };
      torchvision = derivation "torchvision-nixpkgs" { };
      torchaudio = derivation "torchaudio-nixpkgs" { };
    };

  mkPython = nixpkgs: version: lib.makeOverridable
    ({ packageOverrides ? (_: _: { }), self ? null }:
      let
        pkgs = lib.fix (lib.extends packageOverrides (final:
          pythonPackages nixpkgs final // { python = result; }));
        result = derivation "python3-${version}" {
          inherit pkgs;
          libPrefix = "python${version}";
          sitePackages = "lib/python${version}/site-packages";
          buildEnv = lib.makeOverridable
            ({ extraLibs ? [ ] }: nixpkgs.pythonEnvironment extraLibs)
            { };
          withPackages = choose: result.buildEnv.override { extraLibs = choose pkgs; };
        };
      in
      result)
    { };

  base = final:
    lib.genAttrs [
      "autoPatchelfHook" "unzip" "zlib" "level-zero" "makeBinaryWrapper" "coreutils" "findutils" "mkl"
      "intel-graphics-compiler" "gcc"
    ] (name: derivation name { })
    // {
      intel-compute-runtime = derivation "intel-compute-runtime" {
        drivers = derivation "intel-compute-runtime-drivers" { };
      };
      inherit lib config system;
      stdenv = { cc.cc = derivation "gcc" { }; inherit mkDerivation; hostPlatform = { inherit system; }; };
      stdenvNoCC = { inherit mkDerivation; };
      addDriverRunpath.driverLink = "/run/opengl-driver";
      callPackage = lib.callPackageWith final;
      extend = overlay: import ./. { inherit system config generation backends; overlays = overlays ++ [ overlay ]; };
      fetchurl = fetch;
      fetchPypi = fetch;
      pythonModule = name: derivation "python-${name}" { };
      pythonEnvironment = extraLibs: derivation "python3-env" { inherit extraLibs; };
      linkFarm = name: entries: derivation name { inherit entries; };
      writeText = file;
      writeShellScript = file;
      runCommand = name: attributes: script: derivation name (attributes // { inherit script; });
      mkShell = arguments: derivation "shell" arguments;
      dockerTools = {
        streamLayeredImage = arguments: derivation "stream-${arguments.name}" { inherit arguments; };
      } // lib.genAttrs [ "fakeNss" "caCertificates" ] (name: derivation name { });
      testers.runNixOSTest = test: derivation "vm-test-${test.name}" { inherit test; };
      python312 = mkPython final "3.12";
      python313 = mkPython final "3.13";
      python3 = mkPython final "3.14";
      path = ./.;
      inherit derivation generation;
      comfyui = final.callPackage ./pkgs/by-name/co/comfyui/package.nix { };
      ollama = lib.makeOverridable
        ({ acceleration ? null }:
          lib.throwIfNot (lib.elem acceleration ([ null ] ++ backends)) "ollama: no ${acceleration}"
            (derivation "ollama" { inherit acceleration; }))
        { };
      blas = lib.makeOverridable ({ blasProvider ? null }: derivation "blas" { inherit blasProvider; }) { };
      lapack = lib.makeOverridable ({ lapackProvider ? null }: derivation "lapack" { inherit lapackProvider; }) { };
    };
in
lib.fix (lib.foldl' (lib.flip lib.extends) base overlays)

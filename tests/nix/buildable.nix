# An overlay on the stand-in for nixpkgs under which our derivations are really built, without Nix's sandbox, with the
# machine's programs instead of nixpkgs' stdenv: `bash`, what lies beside it, and what is on `path`. `python` is one
# that has what ComfyUI needs, `site` a folder that goes before its packages, `host` a ComfyUI, `wheels` a folder of
# Intel's wheels.
{ python, site, host, bash, path, wheels ? "" }:
final: prev:
let
  inherit (final) lib;

  mkDerivation = arguments:
    let
      drv = builtins.derivation (removeAttrs arguments [ "meta" "passthru" "nativeBuildInputs" "buildInputs" ] // {
        name = arguments.name or "${arguments.pname}-${arguments.version}";
        inherit (final) system;
        builder = bash;
        args = [ ./setup.sh ];
        PATH = path;
      });
    in
    drv // { meta = arguments.meta or { }; inherit arguments; } // (arguments.passthru or { });
  runCommand = name: attributes: buildCommand: mkDerivation (attributes // { inherit name buildCommand; });
  text = mode: name: content: runCommand name { inherit content; passAsFile = [ "content" ]; }
    "cp $contentPath $out; chmod ${mode} $out";

  wheel = arguments:
    let name = with arguments; "${pname}-${version}-${dist}-${abi}-${platform}.whl"; in
    mkDerivation {
      inherit name;
      buildCommand = "cp ${wheels}/${name} $out";
      outputHash = arguments.hash;
      outputHashMode = "flat";
    };
in
{
  inherit runCommand;
  stdenvNoCC = { inherit mkDerivation; };
  stdenv = prev.stdenv // { inherit mkDerivation; };
  writeText = text "444";
  writeShellScript = name: content: text "555" name "#!${bash}\n${content}";
  linkFarm = name: entries: runCommand name { } (
    "mkdir $out\n" + lib.concatStringsSep "\n"
      (lib.mapAttrsToList (entry: path: "ln -s ${path} $out/${entry}") entries)
  );
  coreutils = dirOf (dirOf bash);
  findutils = dirOf (dirOf bash);

  # Python's packages are those of `python`, whatever is asked for, but for gguf, which it gets only from the store.
  pythonModule = name: prev.pythonModule name // lib.optionalAttrs (name == "gguf") (
    runCommand "python-gguf" { passthru.isBuilt = true; } "mkdir $out; touch $out/gguf.py"
  );
  pythonEnvironment = extraLibs: runCommand "python3-env" {
    passthru = { inherit extraLibs; };
    modules = map toString (
      [ (builtins.path { path = site; name = "site"; }) ] ++ builtins.filter (module: module ? isBuilt) extraLibs
    );
  } ''
    mkdir -p $out/bin
    printf '#!${bash}\nexport PYTHONPATH=%s''${PYTHONPATH:+:$PYTHONPATH}\nexec ${python} "$@"\n' \
      "$(echo $modules | tr ' ' :)" > $out/bin/python
    chmod +x $out/bin/python
  '';
  fetchPypi = wheel;

  comfyui = lib.makeOverridable
    ({ python3 ? final.python3, extraPackages ? (_: [ ]) }: mkDerivation {
      pname = "comfyui";
      inherit (prev.comfyui) version;
      src = builtins.path {
        name = "comfyui-source";
        path = host;
        filter = path: _: baseNameOf path != "__pycache__";
      };
      installPhase = ''
        mkdir -p $out/share
        cp -r . $out/share/comfyui
      '';
      passthru = {
        inherit (prev.comfyui.override { inherit python3 extraPackages; }) python pythonEnv;
        inherit (prev.comfyui) version;
      };
      inherit (prev.comfyui) meta;
    })
    { };
}

# nixpkgs' lib at NIXPKGS_LIB or, where that is not set, the little of it that our packages and the stand-in use.
let
  given = builtins.getEnv "NIXPKGS_LIB";
  # Debian's Nix 2.8 has no readFileType, which lib.fileset needs.
  scope = {
    builtins = { readFileType = path: (builtins.readDir (dirOf path)).${baseNameOf path}; } // builtins;
    import = builtins.scopedImport scope;
  };

  little = rec {
    inherit (builtins) attrValues concatMap concatStringsSep elem foldl' head length mapAttrs;
    licenses = genAttrs [ "asl20" "bsd3" "gpl3Only" "issl" "mit" ] (shortName: { inherit shortName; });
    platforms.linux = [ "x86_64-linux" ];
    sourceTypes.binaryNativeCode = "binaryNativeCode";

    isFunction = value: builtins.isFunction value || value ? __functor;
    functionArgs = f: f.__functionArgs or (builtins.functionArgs f);
    id = value: value;
    flip = f: a: b: f b a;
    fix = f: let result = f result; in result;
    extends = overlay: base: final: let prev = base final; in prev // overlay final prev;
    composeExtensions = f: g: final: prev: let first = f final prev; in first // g final (prev // first);
    toFunction = value: if isFunction value then value else _: value;
    genAttrs = names: f: builtins.listToAttrs (map (name: { inherit name; value = f name; }) names);
    mapAttrsToList = f: set: map (name: f name set.${name}) (builtins.attrNames set);
    optionalAttrs = condition: set: if condition then set else { };
    optionalString = condition: text: if condition then text else "";
    optional = condition: value: if condition then [ value ] else [ ];
    assertMsg = condition: message: condition || throw message;
    throwIf = condition: message: if condition then throw message else id;
    throwIfNot = condition: throwIf (!condition);
    warn = message: builtins.trace "warning: ${message}";
    getLib = package: package.lib or package;
    makeBinPath = packages: concatStringsSep ":" (map (package: "${package}/bin") packages);
    makeLibraryPath = packages: concatStringsSep ":" (map (package: "${getLib package}/lib") packages);

    makeOverridable = f: fix (self: arguments:
      let
        result = f arguments;
        override = {
          __functor = _: changes: self (arguments // toFunction changes arguments);
          __functionArgs = functionArgs f;
        };
      in
      if builtins.isAttrs result then result // { inherit override; } else result);
    callPackageWith = scope: given: changes:
      let f = if isFunction given then given else import given; in
      makeOverridable f (builtins.intersectAttrs (functionArgs f) scope // changes);

    fileset = {
      unions = id;
      toSource = { root, fileset }: builtins.path {
        name = "source";
        path = root;
        filter = path: _: builtins.any
          (part: isWithin (toString part) path || isWithin path (toString part))
          fileset;
      };
    };
    isWithin = folder: path:
      path == folder || builtins.substring 0 (builtins.stringLength folder + 1) path == "${folder}/";
  };
in
if given == "" then little else builtins.scopedImport scope (given + "/lib")

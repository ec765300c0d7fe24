# PyTorch's wheels and those that they need, as wheels.json pins them.
rec {
  pins = builtins.fromJSON (builtins.readFile ./wheels.json);

  # nixpkgs' name of the Python that PyTorch's wheels are for.
  interpreter = builtins.replaceStrings [ "cp" ] [ "python" ] pins.interpreter;

  # Version, hash and origin of every wheel, by list and name.
  wheels = builtins.mapAttrs
    (_: list: builtins.listToAttrs (map (wheel: { inherit (wheel) name; value = wheel; }) list))
    pins.wheels;

  # A wheel on PyPI in the parts that nixpkgs' fetchPypi wants.
  pypiWheel = wheel: {
    pname = builtins.replaceStrings [ "-" ] [ "_" ] wheel.name;
    inherit (wheel) version hash platform python;
    format = "wheel";
    dist = wheel.python;
    abi = if builtins.match "cp.*" wheel.python != null then wheel.python else "none";
  };

  # A wheel of PyTorch's own registry. Named, because Nix would make `-2B` of the address's `%2B`, and the version
  # in a wheel's name counts.
  pytorchWheel = wheel: {
    inherit (wheel) url hash;
    name = baseNameOf (builtins.replaceStrings [ "%2B" ] [ "+" ] wheel.url);
  };
}

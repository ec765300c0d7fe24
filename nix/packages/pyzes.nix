# Intel's bindings for Level Zero Sysman (temperature, power, free memory). The wheel looks for the loader where
# Debian puts it.
{
  lib,
  python,
  buildPythonPackage,
  fetchPypi,
  level-zero,
}:
let
  inherit (import ../wheels.nix) pypiWheel wheels;
  wheel = wheels.python.pyzes;
in
buildPythonPackage {
  inherit (wheel) version;
  pname = wheel.name;
  format = "wheel";
  src = fetchPypi (pypiWheel wheel);
  postInstall = ''
    substituteInPlace $out/${python.sitePackages}/pyzes.py \
      --replace-fail '"/usr/lib/x86_64-linux-gnu/lib" + libName + ".so.1"' \
        '"${lib.getLib level-zero}/lib/lib" + libName + ".so.1"'
  '';
  pythonImportsCheck = [ "pyzes" ];
  meta = {
    description = "Python bindings for Level Zero Sysman";
    license = lib.licenses.mit;
    platforms = [ "x86_64-linux" ];
  };
}

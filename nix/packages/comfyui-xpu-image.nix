# A container image, layered: nix build .#comfyui-xpu-image && ./result | docker load
{
  dockerTools,
  comfyui-xpu,
}:
let
  logic = import ../lib.nix;
  dataDir = "/data";
  cfg = {
    inherit dataDir;
    inherit (comfyui-xpu) acceleration;
    host = "0.0.0.0";  # inside the container: which addresses outside reach it is said when it is run
    port = 8188;
    extraArgs = [ ];
    environment.HOME = dataDir;
    device = { selector = "level_zero:gpu"; affinity = null; };
    ollama = { hosts = [ "http://127.0.0.1:11434" ]; shareGpu = true; };
  };
  environment = logic.environment cfg;
in
dockerTools.streamLayeredImage {
  name = "comfyui-xpu";
  tag = comfyui-xpu.version;
  contents = [ dockerTools.fakeNss dockerTools.caCertificates ];
  extraCommands = "mkdir -m 1777 tmp data";
  config = {
    Entrypoint = [ "${comfyui-xpu}/bin/comfyui-xpu" ] ++ logic.arguments { inherit cfg; };
    Env = map (name: "${name}=${environment.${name}}") (builtins.attrNames environment);
    ExposedPorts."8188/tcp" = { };
    Volumes.${dataDir} = { };
    User = "1000:1000";
    WorkingDir = dataDir;
  };
}

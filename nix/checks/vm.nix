# The service in a virtual machine, on the CPU: a graph through the API, with a generated checkpoint, and a node
# that needs a Python package of its own.
{ lib, testers, runCommand, comfyui-xpu }:
let
  package = comfyui-xpu.override { acceleration = "cpu"; };
  generator = lib.fileset.toSource {
    root = ../..;
    fileset = lib.fileset.unions [ ../../tests/__init__.py ../../tests/harness ../../tests/training ];
  };
  models = runCommand "comfyui-test-models" { } ''
    export HOME=$TMPDIR PYTHONPATH=${package.server}/share/comfyui
    cd ${generator}
    ${package.environment}/bin/python -m tests.harness.synthetic $out sd15-tiny
  '';
  node = runCommand "vm-node" { passthru.pythonDependencies = python: [ python.gguf ]; } ''
    mkdir $out
    cp ${./vm_node.py} $out/__init__.py
  '';
in
testers.runNixOSTest {
  name = "comfyui-xpu";

  nodes.machine = {
    imports = [ ../nixos.nix ];
    virtualisation = { memorySize = 6144; diskSize = 8192; cores = 2; };
    services.comfyui-xpu = {
      enable = true;
      acceleration = "cpu";
      inherit package;
      models.files."checkpoints/sd15-tiny.safetensors".path = "${models}/checkpoints/sd15-tiny.safetensors";
      customNodes.vm-node = node;
    };
  };

  testScript = ''
    import json

    def api(path, body=None):
        data = "" if body is None else f"--json '{json.dumps(body)}'"
        return json.loads(machine.succeed(f"curl --fail --silent {data} http://127.0.0.1:8188{path}"))

    machine.wait_for_unit("comfyui-xpu.service")
    machine.wait_for_open_port(8188, timeout=300)
    machine.succeed("test -L /var/lib/comfyui-xpu/custom_nodes/vm-node")
    machine.succeed("systemctl show comfyui-xpu -p NoNewPrivileges | grep -q yes")
    machine.succeed("grep -q 'CapEff:.0000000000000000' /proc/$(systemctl show comfyui-xpu -P MainPID)/status")
    machine.succeed("systemd-analyze security --threshold=15 comfyui-xpu.service")
    assert {"XPUOllamaPrompt", "VMNode"} <= api("/object_info").keys()

    doctor = machine.succeed("systemctl show comfyui-xpu-doctor -p Result -p ExecMainExitTimestampMonotonic")
    assert "Result=success" in doctor, doctor
    assert "ExecMainExitTimestampMonotonic=0\n" not in doctor, "the doctor never ended"

    graph = ${builtins.toJSON (import ./graph.nix)}
    prompt = api("/prompt", {"prompt": graph})["prompt_id"]
    machine.wait_until_succeeds(
        f"curl --silent http://127.0.0.1:8188/history/{prompt} | grep -q '\"completed\": true'", timeout=600
    )
    machine.succeed("ls /var/lib/comfyui-xpu/output/vm_*.png")
  '';
}

"""services.comfyui-xpu in the real NixOS module system (stubs for the rest of NixOS, packages that cannot be built)."""

from __future__ import annotations

import json
import re
import shlex
from typing import Any

import pytest

from xpu_utils.commands.doctor import NEEDED_IS_MISSING
from xpu_utils.doctor.python import COMPILER
from xpu_utils.doctor.system import RUNTIME

from ..evaluate import NixError, evaluate, nix
from ..wrong import WRONG


def system(services: dict[str, Any], *, users: dict[str, Any] | None = None, **arguments: Any) -> dict[str, Any]:
    """What the module makes of ``services.*`` settings and of users and groups that somebody declares."""
    given = "".join(f"{name} = {nix(value)};" for name, value in arguments.items())
    answer: dict[str, Any] = evaluate(
        f"import ./tests/nix/deep/nixos.nix {{ settings.services = {nix(services)};"
        f" settings.users = {nix(users or {})}; {given} }}"
    )
    return answer


def xpu(settings: dict[str, Any], **arguments: Any) -> dict[str, Any]:
    return system({"comfyui-xpu": {"enable": True} | settings}, **arguments)


def test_a_module_that_is_not_enabled_changes_nothing() -> None:
    answer = evaluate(
        "let made = import ./tests/nix/deep/nixos.nix { settings = { }; }; in"
        " { inherit (made) unit doctor users ports graphics failures warnings; }"
    )
    assert answer == {
        "unit": None,
        "doctor": None,
        "users": {"users": {}, "groups": {}},
        "ports": [],
        "graphics": False,
        "failures": [],
        "warnings": [],
    }


def test_the_service_starts_comfyui_with_the_settings() -> None:
    unit = xpu({"host": "0.0.0.0", "port": 9000, "extraArgs": ["--preview-method=auto"]})["unit"]
    assert shlex.split(unit["serviceConfig"]["ExecStart"]) == [
        "/nix/store/comfyui-xpu-0.37.0/bin/comfyui-xpu",
        "--base-directory=/var/lib/comfyui-xpu",
        "--database-url=sqlite:////var/lib/comfyui-xpu/user/comfyui.db",
        "--listen=0.0.0.0",
        "--port=9000",
        "--preview-method=auto",
    ]
    assert unit["environment"].items() >= {
        ("HOME", "/var/lib/comfyui-xpu"),
        ("ONEAPI_DEVICE_SELECTOR", "level_zero:gpu"),
        ("XPU_NODES_OLLAMA_HOSTS", "http://127.0.0.1:11434"),
    }
    assert unit["wantedBy"] == ["multi-user.target"]


def test_what_systemd_would_replace_is_escaped() -> None:
    unit = xpu({"environment": {"A": "50% $b"}, "extraArgs": ["--front-end-root=/srv/$a/%h"]})["unit"]
    assert unit["environment"]["A"] == "50%% $b"
    assert unit["serviceConfig"]["ExecStart"].endswith(' "--front-end-root=/srv/$$a/%%h"')


def test_the_service_is_confined_to_its_folder_and_the_gpu() -> None:
    answer = xpu({})
    config = answer["unit"]["serviceConfig"]
    assert (config["User"], config["Group"]) == ("comfyui-xpu", "comfyui-xpu")
    assert config["NoNewPrivileges"] is config["PrivateTmp"] is True
    assert config["ProtectHome"] == "tmpfs"
    assert (config["ProtectSystem"], config["ReadWritePaths"]) == ("strict", ["/var/lib/comfyui-xpu"])
    assert (config["DevicePolicy"], config["DeviceAllow"]) == ("closed", ["char-drm rw"])
    assert config["SupplementaryGroups"] == ["render", "video"]
    assert answer["users"]["users"]["comfyui-xpu"]["isSystemUser"] is True
    assert answer["tmpfiles"]["comfyui-xpu"]["/var/lib/comfyui-xpu"]["d"]["mode"] == "0750"


def test_the_gpu_gets_its_driver_and_the_cpu_none() -> None:
    gpu, cpu = xpu({}), xpu({"acceleration": "cpu"})
    assert gpu["graphics"] is True
    assert gpu["drivers"] == [
        "intel-compute-runtime",
        "intel-compute-runtime-drivers",
        "level-zero",
        "intel-graphics-compiler",
    ]
    assert (cpu["graphics"], cpu["drivers"]) == (False, [])
    assert "--cpu" in cpu["unit"]["serviceConfig"]["ExecStart"]
    assert cpu["python"]["acceleration"] == "cpu"
    assert "torch-nixpkgs" in cpu["python"]["packages"]


def test_the_doctor_asks_for_what_the_module_installs() -> None:
    named = re.findall(r"pkgs\.(\S+)", RUNTIME["nixos"])
    assert {name.replace(".", "-") for name in named} <= set(xpu({})["drivers"])
    assert "intel-compute-runtime.drivers" in named, "Level Zero's driver is in this output"


def test_the_doctor_s_compiler_is_one_that_the_service_can_be_given() -> None:
    answer = evaluate(
        "let pkgs = import ./tests/nix/nixpkgs { }; in (import ./tests/nix/deep/nixos.nix { settings = {"
        f" services.comfyui-xpu.enable = true; {COMPILER['nixos']} }}; }}).unit.environment.CXX"
    )
    assert answer == "/nix/store/gcc/bin/g++"


def test_the_python_of_the_service_has_torch_for_xpu() -> None:
    packages = xpu({})["python"]["packages"]
    assert {"torch-2.14.0", "torchvision-0.29.0", "torchaudio-2.11.0", "python-ollama"} <= set(packages)
    assert not any("nixpkgs" in name for name in packages)


def test_nodes_and_models_are_linked_before_the_start() -> None:
    node = '{ type = "derivation"; name = "gguf"; outPath = "/nix/store/gguf"; pythonDependencies = p: [ p.gguf ]; }'
    answer = evaluate(
        "import ./tests/nix/deep/nixos.nix { settings.services.comfyui-xpu = { enable = true;"
        f" customNodes.my-gguf = {node};"
        ' models.files."vae/a.safetensors" = { url = "https://a/b"; hash = "sha256-abc="; };'
        ' models.files."loras/b".path = "/srv/b"; models.files."loras/c".path = ./LICENSE;'
        ' models.folders = [ "/srv/models" ];'
        " extraPackages = p: [ p.psutil ]; }; }"
    )
    script = answer["python"]["link"]
    assert answer["link"] == "/nix/store/comfyui-xpu-link"
    assert "ln -sfn '/nix/store/gguf' '/var/lib/comfyui-xpu/custom_nodes/my-gguf'" in script
    assert "ln -sfn '/nix/store/a.safetensors' '/var/lib/comfyui-xpu/models/vae/a.safetensors'" in script
    assert "ln -sfn '/srv/b' '/var/lib/comfyui-xpu/models/loras/b'" in script
    assert re.search(r"ln -sfn '/nix/store/[a-z0-9]{32}-LICENSE' '/var/lib/comfyui-xpu/models/loras/c'", script)
    assert {"python-gguf", "python-psutil"} <= set(answer["python"]["packages"])
    assert json.loads(answer["python"]["modelPaths"])["/srv/models"]["base_path"] == "/srv/models"
    assert (
        "--extra-model-paths-config=/nix/store/comfyui-model-folders.yaml"
        in answer["unit"]["serviceConfig"]["ExecStart"]
    )


def test_the_doctor_runs_first_with_the_same_rights() -> None:
    answer = xpu({})
    doctor, unit = answer["doctor"], answer["unit"]
    command = "/nix/store/comfyui-xpu-0.37.0/bin/comfyui-xpu-doctor"
    assert doctor["serviceConfig"]["ExecStart"] == f"{command} --need xpu"
    assert xpu({"acceleration": "cpu"})["doctor"]["serviceConfig"]["ExecStart"] == command
    assert doctor["before"] == ["comfyui-xpu.service"]
    assert doctor["environment"] == unit["environment"]
    assert doctor["serviceConfig"]["DeviceAllow"] == unit["serviceConfig"]["DeviceAllow"]
    assert xpu({"healthCheck": False})["doctor"] is None


def test_what_the_doctor_finds_neither_fails_nor_holds_up_the_system_but_for_a_missing_gpu() -> None:
    doctor = xpu({})["doctor"]
    config = doctor["serviceConfig"]
    assert (config["SuccessExitStatus"], config["TimeoutStartSec"]) == ([1, 2], "3min")
    assert NEEDED_IS_MISSING not in config["SuccessExitStatus"]
    assert doctor["requiredBy"] == ["comfyui-xpu.service"], "ComfyUI would be started without it"


def test_a_server_that_always_fails_is_left_alone_and_the_doctor_is_not_asked_each_time() -> None:
    answer = xpu({})
    assert answer["unit"]["unitConfig"].items() >= {("StartLimitIntervalSec", 300), ("StartLimitBurst", 5)}
    assert answer["doctor"]["serviceConfig"]["RemainAfterExit"] is True


def test_the_doctor_and_the_benchmark_are_on_the_path() -> None:
    assert xpu({})["systemPackages"] == ["comfyui-xpu-0.37.0"]


def test_what_a_user_sets_for_ollama_wins() -> None:
    own = {"OLLAMA_KEEP_ALIVE": "10m"}
    settings = {"comfyui-xpu": {"enable": True, "ollama": {"enable": True}}, "ollama": {"environmentVariables": own}}
    assert system(settings)["ollama"]["environmentVariables"].items() >= own.items()


def test_the_service_waits_for_the_disks_that_it_uses() -> None:
    blank = {"vae/a": {"path": "/mnt/my vae"}}  # which systemd would take for two
    answer = xpu({"dataDir": "/srv/comfy", "models": {"folders": ["/mnt/models"], "files": blank}})
    assert answer["unit"]["unitConfig"]["RequiresMountsFor"] == ["/srv/comfy", "/mnt/models"]
    assert answer["doctor"]["unitConfig"]["RequiresMountsFor"] == ["/srv/comfy", "/mnt/models"]


def test_sycl_is_there_for_the_ollama_that_has_it() -> None:
    settings = {"ollama": {"enable": True, "backend": "sycl"}}
    services = nix({"comfyui-xpu": {"enable": True} | settings})
    (failure,) = evaluate(f"(import ./tests/nix/deep/nixos.nix {{ settings.services = {services}; }}).failures")
    assert failure.startswith("services.comfyui-xpu.ollama.backend: this nixpkgs' Ollama has no sycl")
    answer = xpu(settings, backends=["vulkan", "sycl"])
    assert answer["failures"] == []
    assert answer["ollama"]["backend"] == "sycl"
    assert "OLLAMA_VULKAN" not in answer["ollama"]["environmentVariables"]


def test_the_firewall_opens_only_when_asked() -> None:
    assert xpu({"host": "0.0.0.0"})["ports"] == []
    assert xpu({"host": "0.0.0.0", "openFirewall": True})["ports"] == [8188]


def test_a_user_of_one_s_own_is_not_created() -> None:
    own = {"users": {"me": {"name": "ann"}}, "groups": {"users": {"gid": 100}}}
    answer = xpu({"user": "ann", "group": "users"}, users=own)
    assert (answer["users"], answer["failures"]) == (own, [])
    assert answer["unit"]["serviceConfig"]["User"] == "ann"


def test_a_user_that_nobody_declares_is_refused_with_what_to_write() -> None:
    """As the old flake's, which its module created."""
    old = {"comfyui-ipex": {"enable": True, "user": "comfyui", "group": "comfyui"}}
    told = services_failures(old, "")
    written = [text.partition("; write ")[2] for text in told]
    assert [text.split(": ")[0] for text in told] == ["services.comfyui-xpu.user", "services.comfyui-xpu.group"]
    assert services_failures(old, " ".join(written)) == []


def services_failures(services: dict[str, Any], more: str) -> list[str]:
    """What is refused of ``services.*`` settings beside more settings, in Nix."""
    answer: list[str] = evaluate(
        f"(import ./tests/nix/deep/nixos.nix {{ settings = {{ services = {nix(services)}; {more} }}; }}).failures"
    )
    return answer


@pytest.mark.parametrize("name", ["comfyui-xpu", "ollama-xpu"])
def test_a_nixpkgs_without_the_overlay_is_told_of_it(name: str) -> None:
    made = {"comfyui-xpu": "unit.serviceConfig.ExecStart", "ollama-xpu": "ollama.package"}[name]
    with_it = "(import ./tests/nix/nixpkgs { overlays = [ (import ./nix/overlay.nix) ]; })"
    own = "" if name == "comfyui-xpu" else f"package = {with_it}.comfyui-xpu;"
    with pytest.raises(NixError, match=f"needs pkgs.{name}, which .* lacks: put overlays.default in"):
        evaluate(
            "(import ./tests/nix/deep/nixos.nix { overlays = [ ]; settings.services.comfyui-xpu = {"
            f" enable = true; ollama.enable = true; {own} }}; }}).{made}"
        )


def test_the_package_s_acceleration_is_the_service_s() -> None:
    answer = evaluate(
        "let pkgs = import ./tests/nix/nixpkgs { overlays = [ (import ./nix/overlay.nix) ]; };"
        " in (import ./tests/nix/deep/nixos.nix { settings.services.comfyui-xpu = { enable = true;"
        ' package = pkgs.comfyui-xpu.override { acceleration = "cpu"; }; }; }).python.acceleration'
    )
    assert answer == "cpu"


@pytest.mark.parametrize("generation", ["option", "removed", "absent"])
def test_ollama_runs_on_vulkan_whatever_nixpkgs_calls_it(generation: str) -> None:
    answer = xpu({"ollama": {"enable": True}}, ollama=generation)
    assert answer["failures"] == []
    ollama = answer["ollama"]
    assert (ollama["enable"], ollama["backend"]) == (True, "vulkan")
    assert ollama["environmentVariables"] == {
        "OLLAMA_VULKAN": "1",
        "OLLAMA_KEEP_ALIVE": "0",
        "OLLAMA_MAX_LOADED_MODELS": "1",
    }
    assert ollama["acceleration"] == ("vulkan" if generation == "option" else "no such option")


def test_ollama_has_a_vulkan_driver_where_comfyui_runs_on_the_cpu() -> None:
    answer = xpu({"acceleration": "cpu", "ollama": {"enable": True}})
    assert (answer["graphics"], answer["drivers"]) == (True, [])


def test_ollama_on_a_gpu_of_its_own_keeps_its_models() -> None:
    answer = xpu({"ollama": {"enable": True, "shareGpu": False}})
    assert answer["ollama"]["environmentVariables"] == {"OLLAMA_VULKAN": "1"}
    assert answer["unit"]["environment"]["XPU_NODES_OLLAMA_SHARES_DEVICE"] == "0"


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("0.0.0.0", "127.0.0.1"),
        ("[::]", "127.0.0.1"),
        ("192.168.1.5", "192.168.1.5"),
        ("::1", "[::1]"),
        ("[fd00::1]", "[fd00::1]"),
    ],
)
def test_the_node_may_ask_the_ollama_of_this_machine_where_it_listens(host: str, address: str) -> None:
    settings = {"comfyui-xpu": {"enable": True, "ollama": {"enable": True}}, "ollama": {"host": host, "port": 9999}}
    assert system(settings)["unit"]["environment"]["XPU_NODES_OLLAMA_HOSTS"] == f"http://{address}:9999"


def test_a_neighbour_s_options_are_left_alone() -> None:
    assert xpu({})["declaresComfyui"] is False
    beside = {"enable": True, "port": 8189, "dataDir": "/var/lib/comfyui"}
    assert xpu({}, neighbour=beside)["failures"] == []


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"enable": True, "port": 8188, "dataDir": "/var/lib/comfyui"}, "port: 8188 is services.comfyui's port too"),
        ({"enable": True, "listenPort": 1, "dataDir": "/var/lib/comfyui-xpu"}, "is services.comfyui's folder too"),
    ],
)
def test_a_neighbour_in_the_way_is_named(settings: dict[str, Any], words: str) -> None:
    (failure,) = xpu({}, neighbour=settings)["failures"]
    assert words in failure


@pytest.mark.parametrize(("settings", "words"), WRONG.values(), ids=WRONG)
def test_a_wrong_configuration_stops_the_build_with_its_sentence(settings: dict[str, Any], words: str) -> None:
    services = nix({"comfyui-xpu": {"enable": True} | settings})
    made = f"import ./tests/nix/deep/nixos.nix {{ settings.services = {services}; }}"
    (failure,) = evaluate(f"({made}).failures")
    assert failure.startswith("services.comfyui-xpu.")
    assert words in failure


@pytest.mark.parametrize(
    ("settings", "option"),
    [
        ({"port": "8188"}, "port"),
        ({"port": 70000}, "port"),
        ({"acceleration": "cuda"}, "acceleration"),
        ({"customNodes": ["gguf"]}, "customNodes"),
        ({"models": {"files": {"vae/a": "https://a"}}}, "models.files"),
        ({"extraArgs": "--verbose"}, "extraArgs"),
        ({"nodes": {}}, "nodes"),
    ],
)
def test_a_value_of_the_wrong_kind_names_the_option(settings: dict[str, Any], option: str) -> None:
    with pytest.raises(NixError, match=rf"services\.comfyui-xpu\.{option}"):
        xpu(settings)


def test_a_package_that_takes_no_nodes_is_refused() -> None:
    plain = {"type": "derivation", "name": "my-comfyui", "outPath": "/nix/store/my-comfyui"}
    with pytest.raises(NixError, match=r"services\.comfyui-xpu\.package: my-comfyui cannot take"):
        xpu({"package": plain})
    with pytest.raises(NixError, match=r"services\.comfyui-xpu\.package: comfyui-0.37.0 cannot take"):
        evaluate(
            "(import ./tests/nix/deep/nixos.nix { settings.services.comfyui-xpu = { enable = true;"
            " package = (import ./tests/nix/nixpkgs { }).comfyui; }; }).unit.serviceConfig.ExecStart"
        )

"""nix/lib.nix with builtins alone: command line, environment, links, and what is refused."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from tests.harness.hosts import CARRIERS, host_path

from .evaluate import evaluate, nix
from .right import RIGHT, configured
from .wrong import WRONG

LIB = "(import ./nix/lib.nix)"


def test_the_command_line_carries_every_option() -> None:
    cfg = configured(host="0.0.0.0", port=9000, dataDir="/srv/x", acceleration="cpu", extraArgs=["--verbose"])
    assert evaluate(f'{LIB}.arguments {{ cfg = {nix(cfg)}; modelPaths = "/nix/store/paths"; }}') == [
        "--base-directory=/srv/x",
        "--database-url=sqlite:////srv/x/user/comfyui.db",
        "--listen=0.0.0.0",
        "--port=9000",
        "--extra-model-paths-config=/nix/store/paths",
        "--cpu",
        "--verbose",
    ]


def test_an_xpu_service_is_not_told_to_use_the_cpu() -> None:
    assert "--cpu" not in evaluate(f"{LIB}.arguments {{ cfg = {nix(RIGHT)}; }}")


def test_the_environment_selects_level_zero_and_never_opencl() -> None:
    assert evaluate(f"{LIB}.environment {nix(RIGHT)}") == {
        "ONEAPI_DEVICE_SELECTOR": "level_zero:gpu",
        "PYTHONDONTWRITEBYTECODE": "1",
        "SYCL_CACHE_DIR": "/var/lib/comfyui-xpu/.cache/libsycl_cache",
        "SYCL_CACHE_PERSISTENT": "1",
        "TORCHINDUCTOR_CACHE_DIR": "/var/lib/comfyui-xpu/.cache/torchinductor",
        "XPU_NODES_OLLAMA_HOSTS": "http://127.0.0.1:11434",
        "XPU_NODES_OLLAMA_SHARES_DEVICE": "1",
        "ZES_ENABLE_SYSMAN": "1",
    }


def test_the_environment_takes_affinity_hosts_and_the_user_s_own() -> None:
    cfg = configured(
        device={"affinity": "0.1"},
        ollama={"hosts": ["http://a:1", "http://b:2"], "shareGpu": False},
        environment={"ZES_ENABLE_SYSMAN": "0"},
    )
    assert evaluate(f"{LIB}.environment {nix(cfg)}").items() >= {
        ("ZE_AFFINITY_MASK", "0.1"),
        ("XPU_NODES_OLLAMA_HOSTS", "http://a:1,http://b:2"),
        ("XPU_NODES_OLLAMA_SHARES_DEVICE", "0"),
        ("ZES_ENABLE_SYSMAN", "0"),
    }


def test_the_cpu_gets_no_gpu_environment() -> None:
    names = evaluate(f"{LIB}.environment {nix(configured(acceleration='cpu'))}").keys()
    assert not names & {"ONEAPI_DEVICE_SELECTOR", "ZE_AFFINITY_MASK", "ZES_ENABLE_SYSMAN", "SYCL_CACHE_DIR"}


def test_the_gpu_is_the_only_device_and_the_cpu_needs_none() -> None:
    xpu = evaluate(f"{LIB}.hardening {nix(RIGHT)}")
    cpu = evaluate(f"{LIB}.hardening {nix(configured(acceleration='cpu'))}")
    assert (xpu["DevicePolicy"], xpu["DeviceAllow"], xpu["PrivateDevices"]) == ("closed", ["char-drm rw"], False)
    assert (cpu["DevicePolicy"], cpu["DeviceAllow"], cpu["PrivateDevices"]) == ("closed", [], True)
    assert xpu["SupplementaryGroups"] == ["render", "video"]
    assert cpu["SupplementaryGroups"] == []


def test_hardening_leaves_out_what_breaks_the_driver() -> None:
    hardening = evaluate(f"{LIB}.hardening {nix(RIGHT)}")
    assert not hardening.keys() & {"MemoryDenyWriteExecute", "PrivateUsers", "ProcSubset"}
    assert hardening.items() >= {("NoNewPrivileges", True), ("PrivateTmp", True), ("ProtectSystem", "strict")}
    assert hardening["ReadWritePaths"] == ["/var/lib/comfyui-xpu"]


def test_of_the_users_homes_the_service_sees_what_it_is_given_from_there() -> None:
    cfg = configured(
        dataDir="/home/ann/comfyui",
        extraArgs=["--output-directory=/srv/pics", "--tls-keyfile=/home/ann/key", "--front-end-root=/srv/web"],
        models={"folders": ["/home/ann/models", "/srv/models"], "files": {"vae/a": {"path": "/root/a"}}},
    )
    hardening = evaluate(f"{LIB}.hardening {nix(cfg)}")
    assert hardening["ProtectHome"] == "tmpfs"
    assert hardening["BindPaths"] == ["/home/ann/comfyui"]
    assert hardening["BindReadOnlyPaths"] == ["-/home/ann/key", "-/home/ann/models", "-/root/a"]
    assert hardening["ReadWritePaths"] == ["/srv/pics"]
    arguments = {"cfg": cfg, "neighbour": None, "ollamaPort": 11434}
    assert evaluate(f"{LIB}.systemProblems {nix(arguments)}") == []


def test_it_listens_on_every_address_that_is_named() -> None:
    cfg = configured(host=["127.0.0.1", "::1"])
    assert "--listen=127.0.0.1,::1" in evaluate(f"{LIB}.arguments {{ cfg = {nix(cfg)}; }}")
    assert evaluate(f"{LIB}.problems {nix(cfg)}") == []


def test_model_folders_become_paths_that_comfyui_reads() -> None:
    written = json.loads(evaluate(f'{LIB}.modelPaths [ "/srv/a" "/srv/b" ]'))
    assert written.keys() == {"/srv/a", "/srv/b"}
    assert written["/srv/a"].items() >= {
        ("base_path", "/srv/a"),
        ("vae", "vae"),
        ("text_encoders", "text_encoders\nclip"),
    }


FOLDERS_READ = """
import json, sys
sys.argv = sys.argv[:1]
import folder_paths
from utils.extra_config import load_extra_path_config
load_extra_path_config("paths.yaml")
folders = {kind: paths for kind, (paths, _) in folder_paths.folder_names_and_paths.items()}
print(json.dumps([folder_paths.models_dir, folders]))
"""


@pytest.mark.parametrize("version", CARRIERS)
def test_a_model_folder_is_read_like_comfyui_s_own(tmp_path: Path, version: str) -> None:
    (tmp_path / "paths.yaml").write_text(evaluate(f'{LIB}.modelPaths [ "/srv/a" ]'))
    environment = os.environ | {"PYTHONPATH": str(host_path(version))}
    answer = subprocess.run(
        [sys.executable, "-c", FOLDERS_READ], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    own, folders = json.loads(answer.stdout)
    for kind, paths in folders.items():
        expected = {path.replace(own, "/srv/a") for path in paths if path.startswith(own)}
        assert expected <= set(paths), kind


def link(
    tmp_path: Path, *, nodes: dict[str, str], models: dict[str, str], user: int | None = None
) -> subprocess.CompletedProcess[str]:
    """Run the script of these links in a folder, with ``store`` in place of the store; as another user, if given."""
    arguments = {
        "dataDir": str(tmp_path / "it's data"),
        "nodes": nodes,
        "models": models,
        "storeDir": str(tmp_path / "store"),
    }
    script = evaluate(f"{LIB}.linkScript {nix(arguments)}")
    return subprocess.run(["sh", "-c", script], capture_output=True, text=True, user=user)


def test_declared_nodes_and_models_are_linked(tmp_path: Path) -> None:
    node, model = str(tmp_path / "store/node"), str(tmp_path / "store/model")
    assert link(tmp_path, nodes={"my-node": node}, models={"checkpoints/sub/a.safetensors": model}).returncode == 0
    data = tmp_path / "it's data"
    assert (data / "custom_nodes/my-node").readlink() == Path(node)
    assert (data / "models/checkpoints/sub/a.safetensors").readlink() == Path(model)
    assert {folder.name for folder in data.iterdir()} == {"custom_nodes", "input", "models", "output", "user"}


def test_what_is_no_longer_declared_goes_and_the_user_s_own_stays(tmp_path: Path) -> None:
    link(tmp_path, nodes={"old": str(tmp_path / "store/old")}, models={"vae/old": str(tmp_path / "store/old")})
    data = tmp_path / "it's data"
    (data / "custom_nodes/mine").mkdir()
    (data / "custom_nodes/linked").symlink_to(tmp_path)
    (data / "models/vae/mine").write_text("weights")
    (data / "models").rename(tmp_path / "elsewhere")
    (data / "models").symlink_to(tmp_path / "elsewhere")
    link(tmp_path, nodes={"new": str(tmp_path / "store/new")}, models={})
    assert {entry.name for entry in (data / "custom_nodes").iterdir()} == {"mine", "linked", "new"}
    assert [entry.name for entry in (data / "models/vae").iterdir()] == ["mine"]


def test_a_folder_of_the_user_s_is_never_replaced(tmp_path: Path) -> None:
    mine = tmp_path / "it's data/custom_nodes/my-node"
    mine.mkdir(parents=True)
    done = link(tmp_path, nodes={"my-node": str(tmp_path / "store/node")}, models={})
    assert done.returncode == 1
    assert "my-node is in the way of what services.comfyui-xpu declares" in done.stderr
    assert mine.is_dir()


def test_a_folder_of_another_user_s_is_told_with_what_to_do() -> None:
    """As root, by a user who is not: nothing is closed to root."""
    with tempfile.TemporaryDirectory() as folder:
        nodes = Path(folder) / "it's data" / "custom_nodes"
        nodes.mkdir(parents=True)
        Path(folder).chmod(0o755)
        nodes.chmod(0o555)
        done = link(Path(folder), nodes={}, models={}, user=65534 if os.geteuid() == 0 else None)
    assert done.returncode == 1
    assert "custom_nodes belongs to" in done.stderr
    assert re.search(r"run chown -R \S+:\S+ .*it's data or set services\.comfyui-xpu\.user\.", done.stderr)


def test_a_right_configuration_is_accepted() -> None:
    cfg = configured(
        customNodes={"ComfyUI-GGUF": {}, "_v2.0": {}},
        models={
            "files": {
                "checkpoints/a.safetensors": {"url": "https://a/b", "hash": "sha256-abc="},
                "loras/sub/b": {"path": "/srv/b"},
            },
            "folders": ["/srv/models"],
        },
        device={"selector": "level_zero:0,1", "affinity": "0.1,1"},
        ollama={"hosts": ["http://gpu-box", "https://[::1]:65535", "http://10.0.0.2:11434"]},
        extraArgs=["--preview-method=auto"],
        environment={"UR_L0_ENABLE_RELAXED_ALLOCATION_LIMITS": "1", "LD_LIBRARY_PATH": "/library/x:/srv/lib"},
        host=["0.0.0.0", "::", "fe80::1%eth0"],
    )
    assert evaluate(f"{LIB}.problems {nix(cfg)}") == []


@pytest.mark.parametrize(("settings", "words"), WRONG.values(), ids=WRONG)
def test_a_wrong_configuration_is_refused_by_one_sentence(settings: dict[str, Any], words: str) -> None:
    problems = evaluate(f"{LIB}.problems {nix(configured(**settings))}")
    assert len(problems) == 1
    assert words in problems[0]
    assert problems[0].startswith("services.comfyui-xpu.")


@pytest.mark.parametrize(
    ("settings", "neighbour", "words"),
    [
        ({"user": "root"}, None, "user: root would give"),
        ({"dataDir": "/root"}, None, "dataDir: /root would show the service every file of its user"),
        ({"dataDir": "/home/ann"}, None, "dataDir: /home/ann would show the service every file of its user"),
        (
            {"models": {"files": {"vae/a": {"path": "/home/a/my vae"}}}},
            None,
            "models.files: /home/a/my vae cannot be shown",
        ),
        ({"models": {"folders": ["/home"]}}, None, "models.folders: /home would show the service every file"),
        ({"models": {"files": {"vae/a": {"path": "/run/user/1/a"}}}}, None, "models.files: /run/user/1/a is hidden"),
        ({"openFirewall": True}, None, "openFirewall: no other machine reaches"),
        (
            {"openFirewall": True, "host": ["127.0.0.2", "::1"]},
            None,
            "whose services.comfyui-xpu.host is 127.0.0.2 and ::1",
        ),
        ({"port": 11434, "ollama": {"enable": True}}, None, "port: 11434 is Ollama's port too"),
        ({}, {"port": 8188, "dataDir": "/var/lib/comfyui"}, "port: 8188 is services.comfyui's port too"),
        ({}, {"port": 1, "dataDir": "/var/lib/comfyui-xpu"}, "is services.comfyui's folder too"),
    ],
)
def test_a_wrong_system_is_refused(settings: dict[str, Any], neighbour: dict[str, Any] | None, words: str) -> None:
    arguments = {"cfg": configured(**settings), "neighbour": neighbour, "ollamaPort": 11434}
    problems = evaluate(f"{LIB}.systemProblems {nix(arguments)}")
    assert len(problems) == 1
    assert words in problems[0]


@pytest.mark.parametrize("folder", ["/homelab/comfy", "/rooted/x", "/srv/home/comfy", "/nix/storehouse", "/tmpfs/x"])
def test_a_folder_whose_name_only_begins_alike_is_accepted(folder: str) -> None:
    arguments = {"cfg": configured(dataDir=folder), "neighbour": None, "ollamaPort": 11434}
    assert evaluate(f"{LIB}.systemProblems {nix(arguments)} ++ {LIB}.problems {nix(configured(dataDir=folder))}") == []


def test_folders_that_arguments_name_can_be_written() -> None:
    cfg = configured(extraArgs=["--output-directory=/srv/pics", "--user-directory=/srv/user", "--verbose"])
    assert evaluate(f"{LIB}.hardening {nix(cfg)}")["ReadWritePaths"] == [
        "/var/lib/comfyui-xpu",
        "/srv/pics",
        "/srv/user",
    ]
    assert evaluate(f"{LIB}.problems {nix(cfg)}") == []


def test_a_neighbour_elsewhere_is_accepted() -> None:
    arguments = {"cfg": RIGHT, "neighbour": {"port": 8189, "dataDir": "/var/lib/comfyui"}, "ollamaPort": 11434}
    assert evaluate(f"{LIB}.systemProblems {nix(arguments)}") == []

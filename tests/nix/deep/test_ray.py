"""services.comfyui-xpu.ray in the real NixOS module system: two machines, one address, and what is refused."""

from __future__ import annotations

import shlex
from typing import Any

import pytest

from ..evaluate import evaluate
from .test_nixos import xpu

CLUSTER = {"address": "192.168.1.10", "tokenFile": "/run/secrets/ray", "interface": "enp2s0"}
HEAD = {"ray": {**CLUSTER, "role": "head"}}
WORKER = {"ray": {**CLUSTER, "role": "worker"}}
PROGRAM = "/nix/store/comfyui-xpu-0.37.0/bin/comfyui-xpu"
PORTS = [
    "--node-manager-port=6380",
    "--object-manager-port=6381",
    "--min-worker-port=10002",
    "--max-worker-port=10999",
    "--temp-dir=/var/cache/comfyui-xpu-ray",
]


def serving(**settings: Any) -> dict[str, Any]:
    serve = {"enable": True, "tokenFile": "/run/secrets/serve"}
    return {"host": "0.0.0.0", "ray": {**HEAD["ray"], "serve": serve}, **settings}


def command(unit: dict[str, Any]) -> list[str]:
    return shlex.split(unit["serviceConfig"]["ExecStart"])


def test_head_and_worker_start_ray_in_place_of_the_plain_server() -> None:
    head, worker = xpu(HEAD), xpu(WORKER)
    assert command(head["ray"]) == [
        *(f"{PROGRAM}-ray", "start", "--block", "--disable-usage-stats", "--head", "--node-ip-address=192.168.1.10"),
        *("--port=6379", "--include-dashboard=false", *PORTS),
    ]
    assert command(worker["ray"]) == [
        *(f"{PROGRAM}-ray", "start", "--block", "--disable-usage-stats", "--address=192.168.1.10:6379", *PORTS),
    ]
    for answer in (head, worker):
        assert (answer["failures"], answer["unit"], answer["serve"]) == ([], None, None)
        assert answer["doctor"]["requiredBy"] == ["comfyui-xpu-ray.service"]
        assert "python-ray" in answer["python"]["packages"]
        assert answer["ray"]["serviceConfig"]["ExecStartPre"] == "/nix/store/comfyui-xpu-link"
        assert answer["ray"]["unitConfig"]["StartLimitIntervalSec"] == 0
    assert "python-ray" not in xpu({})["python"]["packages"]
    assert xpu({})["ray"] is None


def test_a_machine_of_a_cluster_is_as_confined_as_the_plain_server_but_for_what_ray_asks_the_kernel() -> None:
    plain, ray = xpu({})["unit"]["serviceConfig"], xpu(WORKER)["ray"]["serviceConfig"]
    loosened = {name for name in plain if plain[name] != ray.get(name) and not name.startswith("Exec")}
    assert loosened == {"RestrictAddressFamilies", "RestartSec"}
    assert set(ray["RestrictAddressFamilies"]) - set(plain["RestrictAddressFamilies"]) == {"AF_NETLINK"}


def test_tokens_are_files_that_only_their_unit_is_given() -> None:
    answer = xpu(serving())
    assert answer["ray"]["serviceConfig"]["LoadCredential"] == ["ray:/run/secrets/ray"]
    assert answer["serve"]["serviceConfig"]["LoadCredential"] == ["ray:/run/secrets/ray", "serve:/run/secrets/serve"]
    for unit in (answer["ray"], answer["serve"]):
        assert unit["environment"].items() >= {("RAY_AUTH_MODE", "token"), ("RAY_AUTH_TOKEN_PATH", "%d/ray")}
    assert command(answer["serve"])[-1] == "--token-file=%d/serve"


def test_the_firewall_lets_the_cluster_through_at_one_interface_and_only_where_that_is_named() -> None:
    workers = [{"from": 10002, "to": 10999}]
    head, worker = xpu(HEAD), xpu(WORKER)
    assert head["interfaces"] == {"enp2s0": {"allowedTCPPorts": [6379, 6380, 6381], "allowedTCPPortRanges": workers}}
    assert worker["interfaces"] == {"enp2s0": {"allowedTCPPorts": [6380, 6381], "allowedTCPPortRanges": workers}}
    closed = xpu({"ray": {**HEAD["ray"], "interface": None}})
    assert (closed["interfaces"], closed["ports"], head["ports"]) == ({}, [], [])


def test_serve_listens_where_the_service_would() -> None:
    answer = xpu(serving(port=9000, openFirewall=True))
    assert command(answer["serve"])[:5] == [
        *(f"{PROGRAM}-serve", "--address=192.168.1.10:6379", "--listen=0.0.0.0", "--port=9000"),
        "--out=/var/lib/comfyui-xpu/serve",
    ]
    assert (answer["failures"], answer["ports"]) == ([], [9000])
    assert answer["serve"]["requires"] == ["comfyui-xpu-ray.service"]
    above = {**serving()["ray"], "port": 11000}
    assert [xpu({**serving(port=port), "ray": above})["failures"] for port in (6379, 10001, 11003)] == [[]] * 3
    alone = {"enable": True, "extraArgs": ["--least=2"]}
    local = xpu({"ray": {**HEAD["ray"], "serve": alone}})
    assert local["failures"] == [], "this machine's own programs need no token"
    assert command(local["serve"])[-1] == "--least=2"


def test_workers_have_the_models_nodes_and_arguments_that_the_plain_server_would_have() -> None:
    text = xpu({**WORKER, "models": {"folders": ["/srv/models"]}, "extraArgs": ["--verbose"]})["python"]["workersMain"]
    compile(text, "main.py", "exec")
    arguments = next(line for line in text.splitlines() if "extra-model-paths" in line)
    assert arguments.endswith('*["--verbose"]]')
    for name in ("xpu-nodes.json", "workers-paths.yaml", "workers-nodes.yaml"):
        assert f'"/nix/store/{name}"' in arguments


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"ray": {"serve": {"enable": True}}}, "ray.serve: there are no workers without a cluster"),
        ({"ray": {**HEAD["ray"], "address": None}}, "ray.address: null is not the head's address"),
        ({"ray": {**HEAD["ray"], "address": "http://a"}}, 'ray.address: "http://a" is not the head\'s address'),
        ({"ray": {**HEAD["ray"], "tokenFile": None}}, "ray.tokenFile: whoever reaches a cluster without a token"),
        ({"ray": {**HEAD["ray"], "tokenFile": "token"}}, "ray.tokenFile: token is not an absolute path"),
        ({"ray": {**HEAD["ray"], "tokenFile": "/nix/store/x-token"}}, "lies in the store, where everybody reads it"),
        ({"ray": {**HEAD["ray"], "tokenFile": "/run/a b"}}, "ray.tokenFile: /run/a b cannot be used"),
        ({**HEAD, "host": "0.0.0.0", "openFirewall": True}, "openFirewall: on a machine of a cluster only ray.serve"),
        (serving(host=["::1", "127.0.0.1"]), "host: ray.serve listens on one address"),
        ({**HEAD, "host": "0.0.0.0", "ray": {**HEAD["ray"], "serve": {"enable": True}}}, "ray.serve.tokenFile: other"),
        (serving(port=6381), "ray.port: Ray takes three ports from 6379 on"),
        (serving(port=10500), "ray.port: Ray takes three ports from 6379 on and those from 10002 to 10999"),
        ({"ray": {**HEAD["ray"], "port": 10000}}, "ray.port: Ray takes three ports from 10000 on"),
        ({"ray": {**HEAD["ray"], "port": 65534}}, "ray.port: Ray takes three ports from 65534 on"),
    ],
)
def test_what_cannot_work_stops_the_build_with_its_sentence(settings: dict[str, Any], words: str) -> None:
    (failure,) = xpu(settings)["failures"]
    assert failure.startswith("services.comfyui-xpu.")
    assert words in failure


def test_a_token_written_as_a_path_without_quotes_is_refused_before_it_is_copied_into_the_store() -> None:
    answer = evaluate(
        "(builtins.tryEval (import ./tests/nix/deep/nixos.nix { settings.services.comfyui-xpu = { enable = true;"
        ' ray = { role = "head"; address = "a"; tokenFile = ./LICENSE; }; }; }).ray.serviceConfig.ExecStart).success'
    )
    assert answer is False

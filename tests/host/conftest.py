"""One real ComfyUI server, shared by the host tests."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.harness.client import Result
from tests.harness.hosts import ROOT, host_path
from tests.harness.models import ensure_models
from tests.harness.ollama_server import OllamaServer, running_ollama
from tests.harness.prepare import LAYOUTS
from tests.harness.read_only import BOUND, read_only_pack
from tests.harness.server import PACK_NAME, Server, running_server
from tests.harness.workflows import Workflow, node, with_our_nodes

Graph = Callable[[], Workflow]
Results = Callable[[Graph, "str | None"], list[torch.Tensor]]
"""`results(graph, precision)`: see `results` below."""

PACKS = {PACK_NAME: ROOT, "test-pack": Path(__file__).with_name("test_pack")}


@pytest.fixture(scope="session")
def host() -> Path:
    return host_path()


@pytest.fixture(scope="session")
def models() -> Path:
    return ensure_models(*LAYOUTS)


@pytest.fixture(scope="session")
def ollama() -> Iterator[OllamaServer]:
    with running_ollama() as state:
        yield state


@pytest.fixture(scope="session")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The pack in a folder that cannot be written, as in the Nix store."""
    with read_only_pack(tmp_path_factory.mktemp("read-only") / PACK_NAME) as folder:
        yield folder


@pytest.fixture(scope="session")
def server(
    tmp_path_factory: pytest.TempPathFactory, host: Path, models: Path, pack: Path, ollama: OllamaServer
) -> Iterator[Server]:
    base = tmp_path_factory.mktemp("server")
    packs = {**PACKS, PACK_NAME: pack}
    environment = {"XPU_NODES_OLLAMA_HOSTS": ollama.url, "PYTHONDONTWRITEBYTECODE": "1"}
    with running_server(
        base, models=models, host=host, packs=packs, environment=environment, launcher=BOUND
    ) as running:
        yield running


@pytest.fixture(scope="session")
def known(server: Server) -> Any:
    """What ComfyUI says of its nodes and ours, by their names."""
    return server.client.get("/object_info")


@pytest.fixture(scope="session")
def results(server: Server) -> Results:
    """What was sampled and the picture, once: by stock nodes or, where a precision is given, by ours on the CPU."""

    @functools.cache
    def of(graph: Graph, precision: str | None) -> list[torch.Tensor]:
        workflow = with_our_nodes(graph(), device="cpu", precision=precision) if precision else graph()
        return sampled_and_drawn(server, workflow, f"{graph.__name__}-{precision}")

    return of


def sampled_and_drawn(server: Server, workflow: Workflow, name: str) -> list[torch.Tensor]:
    """Runs a workflow; what was sampled and the picture."""
    sources = (["sampler", 0], workflow["save"]["inputs"]["images"])
    dumps = {f"dump-{part}": node("TestDump", anything=[part, slot], name=f"{name}-{part}") for part, slot in sources}
    outputs = run_ok(server, {**workflow, **dumps}).outputs
    return [load_file(outputs[dump]["path"][0])["value"] for dump in dumps]


def run_ok(server: Server, workflow: Workflow) -> Result:
    """Runs a workflow that must succeed."""
    result = server.client.run(workflow)
    assert result.error is None, result.message
    return result


def dumped(server: Server, workflow: Workflow, source: list[object], name: str) -> torch.Tensor:
    """Runs a workflow and returns, as floats, what one node's output holds."""
    workflow = {**workflow, "dump": node("TestDump", anything=source, name=name)}
    result = run_ok(server, workflow)
    return load_file(result.outputs["dump"]["path"][0])["value"]

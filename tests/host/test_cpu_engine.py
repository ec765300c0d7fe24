"""The CPU engine inside a real server: close to fp32 in what it changes, and nothing else changed."""

from __future__ import annotations

import time

import psutil
import pytest
import torch
from safetensors.torch import load_file

from tests.harness.server import Server
from tests.harness.workflows import node, text_to_image, with_our_nodes
from xpu_utils.cpu.planning import cpu_plan

from .conftest import Graph, Results, dumped, run_ok
from .graphs import controlnet, custom_sampler, lora, sd3, sd15, separate_files_and_advanced_sampler, upscaled

SAMPLED_ERROR = 4e-2
"""Largest relative error of a latent sampled in bf16 for two to three steps; one call has about 1e-2."""

WEIGHTS_BYTES = 600 << 20
"""A little less than what the weights of the tiny SD1.5 take in bf16."""


@pytest.fixture(scope="module")
def computed() -> str:
    """What this CPU computes in where bf16 is asked for: fp32 where it has no units for bf16."""
    return "bf16" if cpu_plan().computes("bf16") else "fp32"


def relative_error(given: torch.Tensor, expected: torch.Tensor) -> float:
    return float((given - expected).norm() / expected.norm())


def psnr_db(given: torch.Tensor, expected: torch.Tensor) -> float:
    return float(-10 * (given - expected).square().mean().log10())


@pytest.mark.parametrize(
    "graph",
    [
        pytest.param(sd15, marks=pytest.mark.core),
        lora,
        controlnet,
        separate_files_and_advanced_sampler,
    ],
)
def test_bf16_stays_close_to_fp32(results: Results, graph: Graph) -> None:
    """On random weights; test_emoji.py has SD3's layout with trained ones."""
    assert 0 < relative_error(results(graph, "bf16")[0], results(graph, "fp32")[0]) < SAMPLED_ERROR


def test_a_placed_model_computes_with_the_engine_s_layers(server: Server) -> None:
    for precision, has in (("bf16", True), ("fp32", False)):
        graph = with_our_nodes(sd3(), device="cpu", precision=precision)
        loaded = graph["sampler"]["inputs"]["model"]
        graph = {loaded[0]: graph[loaded[0]], "patches": node("TestPatches", model=loaded)}
        found = run_ok(server, graph).outputs["patches"]
        assert ("StandIn" in found["patches"]) == has
        exact = any(name.endswith(".act.forward") for name in found["patched"])
        assert exact == (has and bool(cpu_plan().exact_gelu))


@pytest.mark.matrix
def test_a_compiled_model_computes_what_the_plain_one_does(server: Server) -> None:
    """PyTorch's compiler takes a minute or more for it."""
    graph = with_our_nodes(text_to_image(steps=1), device="cpu", precision="bf16")
    plain = dumped(server, graph, ["sampler", 0], "plain")
    graph["compiled"] = node("TorchCompileModel", model=graph["sampler"]["inputs"]["model"], backend="inductor")
    graph["sampler"]["inputs"]["model"] = ["compiled", 0]
    graph["dump"] = node("TestDump", anything=["sampler", 0], name="compiled")
    result = server.client.run(graph, timeout_s=1800)
    assert result.error is None, result.message
    assert relative_error(load_file(result.outputs["dump"]["path"][0])["value"], plain) < SAMPLED_ERROR


def test_a_decoded_picture_keeps_40_db(server: Server) -> None:
    """The same latent, sampled in fp32, through the VAE in fp32 and in bf16."""
    graph = with_our_nodes(text_to_image(size=64, steps=1), device="cpu", precision="fp32")
    expected = dumped(server, graph, ["decode", 0], "decode-fp32")
    graph["decode"]["inputs"]["precision"] = "bf16"
    actual = dumped(server, graph, ["decode", 0], "decode-bf16")
    assert psnr_db(actual, expected) > 40
    assert not torch.equal(actual, expected), "the engine's up-sampling rounds otherwise in every format"


def test_unloading_gives_the_memory_back(server: Server) -> None:
    process = psutil.Process(server.process.pid)
    run_ok(server, with_our_nodes(text_to_image(seed=51), device="cpu", precision="bf16"))
    loaded_bytes = process.memory_info().rss
    deadline = time.monotonic() + 20
    while process.memory_info().rss > loaded_bytes - WEIGHTS_BYTES and time.monotonic() < deadline:
        # The host misses what it is told while it collects garbage.
        server.client.post("/free", {"unload_models": True, "free_memory": True})
        time.sleep(1)
    assert process.memory_info().rss <= loaded_bytes - WEIGHTS_BYTES


def test_an_upscaler_runs_in_bf16(server: Server, results: Results, computed: str) -> None:
    graph = with_our_nodes(upscaled(), device="cpu", precision="fp32")
    _, expected = results(upscaled, "fp32")
    graph["upscaler"]["inputs"]["precision"] = "bf16"
    actual = dumped(server, graph, ["upscaled", 0], "upscaled-bf16")
    assert psnr_db(actual, expected) > 30
    assert torch.equal(actual, expected) == (computed == "fp32")


def test_a_lora_changes_the_result_as_it_does_in_fp32(results: Results) -> None:
    in_fp32, in_bf16 = (results(lora, precision)[0] - results(sd15, precision)[0] for precision in ("fp32", "bf16"))
    assert relative_error(in_bf16, in_fp32) < 0.3


def test_the_stage_says_which_precision_ran(server: Server, computed: str) -> None:
    graph = with_our_nodes(sd15(), device="cpu", precision="bf16")
    graph["sampler"]["inputs"]["seed"] = 1234  # a node whose result is cached says nothing
    result = run_ok(server, graph)
    stages = [result.outputs[name]["xpu"][0] for name in ("sampler", "decode")]
    assert {stage["precision"] for stage in stages} == {computed}
    assert all(("only emulates bf16" in stage["reason"]) == (computed == "fp32") for stage in stages)


@pytest.mark.core
def test_the_reference_is_untouched_by_the_engine_on_the_same_weights(server: Server) -> None:
    """One stock loader's objects, placed in fp32, then in bf16, then in fp32 again."""
    placed = custom_sampler(text_to_image(), placed=True)
    before = dumped(server, placed, ["decode", 0], "reference-before")
    faster = custom_sampler(text_to_image(), placed=True)
    for name in ("place-model", "place-clip", "place-vae"):
        faster[name]["inputs"]["precision"] = "bf16"
    between = dumped(server, faster, ["decode", 0], "reference-between")
    placed["noise"]["inputs"]["noise_seed"] = 12  # another prompt, so that nothing comes from the cache ...
    dumped(server, placed, ["decode", 0], "reference-other")
    placed["noise"]["inputs"]["noise_seed"] = 11  # ... and the first again
    after = dumped(server, placed, ["decode", 0], "reference-after")
    assert not torch.equal(between, before)
    assert torch.equal(after, before)

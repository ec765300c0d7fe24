"""Bad input ends in one clear sentence, and the server executes the next prompt correctly."""

from __future__ import annotations

import json
import pickle
import threading
import time
import urllib.error
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from tests.harness.client import Client, Result
from tests.harness.server import Server, running_server
from tests.harness.workflows import node, text_to_image, with_our_nodes

from .conftest import PACKS, dumped, run_ok

GOOD = "sd15-tiny.safetensors"


class RunsCode:
    """A pickle that would run a command when read without care."""

    def __reduce__(self) -> tuple[Callable[[str], object], tuple[str]]:
        return (eval, ("__import__('pathlib').Path('pickle-was-executed').touch()",))


def _truncated(good: Path, bad: Path) -> None:
    bad.write_bytes(good.read_bytes()[: good.stat().st_size // 2])


def _corrupt_header(good: Path, bad: Path) -> None:
    bad.write_bytes((64).to_bytes(8, "little") + b"\xf0" * 200)


def _picture(good: Path, bad: Path) -> None:
    Image.new("RGB", (8, 8)).save(bad, "PNG")


def _empty(good: Path, bad: Path) -> None:
    bad.touch()


def _without_weights(good: Path, bad: Path) -> None:
    weights = load_file(good)
    save_file({key: value for key, value in weights.items() if "time_embed.2" not in key}, bad)


def _only_vae(good: Path, bad: Path) -> None:
    save_file({key: value for key, value in load_file(good).items() if key.startswith("first_stage_model")}, bad)


def _not_finite(good: Path, bad: Path) -> None:
    weights = load_file(good)
    weights["model.diffusion_model.out.2.weight"].fill_(float("nan"))
    save_file(weights, bad)


def _pickle(good: Path, bad: Path) -> None:
    bad.write_bytes(pickle.dumps({"state_dict": RunsCode()}))


# file name -> (how it is made from the good one, what the sentence must say)
BAD_FILES: dict[str, tuple[Callable[[Path, Path], None], str]] = {
    "truncated.safetensors": (_truncated, "truncated or corrupt"),
    "corrupt.safetensors": (_corrupt_header, "truncated or corrupt"),
    "picture.safetensors": (_picture, "is a PNG picture, not a safetensors file"),
    "empty.safetensors": (_empty, "is empty"),
    "without-weights.safetensors": (_without_weights, "lacks weights"),
    "only-vae.safetensors": (_only_vae, "no model that ComfyUI knows"),
    "not-finite.safetensors": (_not_finite, "weights hold NaN"),
    "runs-code.ckpt": (_pickle, "was not read"),
}


@pytest.fixture(scope="module")
def bad_server(tmp_path_factory: pytest.TempPathFactory, host: Path, models: Path) -> Iterator[Server]:
    """A server of its own, whose models folder also holds every kind of bad checkpoint."""
    folder = tmp_path_factory.mktemp("models")
    (folder / "checkpoints").mkdir()
    good = models / "checkpoints" / GOOD
    (folder / "checkpoints" / GOOD).symlink_to(good)
    for name, (make, _) in BAD_FILES.items():
        make(good, folder / "checkpoints" / name)
    base = tmp_path_factory.mktemp("bad")
    with running_server(base, models=folder, host=host, packs=PACKS) as running:
        yield running


@pytest.fixture(scope="module")
def expected(bad_server: Server) -> torch.Tensor:
    """What the good workflow gives before anything bad has happened."""
    return good_result(bad_server)


def good_result(server: Server) -> torch.Tensor:
    return dumped(server, with_our_nodes(text_to_image()), ["decode", 0], "good")


def assert_one_sentence(result: Result, says: str) -> None:
    assert result.error is not None, "the prompt succeeded"
    message = result.message.strip()
    assert says in message
    assert "\n" not in message
    assert "Traceback" not in message
    assert message.endswith(".")


@pytest.mark.core
@pytest.mark.parametrize("name", BAD_FILES)
def test_a_bad_checkpoint_is_refused_in_one_sentence(bad_server: Server, expected: torch.Tensor, name: str) -> None:
    result = bad_server.client.run(with_our_nodes(text_to_image(name)))
    assert_one_sentence(result, BAD_FILES[name][1])
    assert not Path("pickle-was-executed").exists()
    assert torch.equal(good_result(bad_server), expected)


@pytest.mark.parametrize("name", ["../../secret.safetensors", "/etc/passwd", "..\\secret.safetensors"])
def test_a_file_name_that_climbs_out_is_refused(bad_server: Server, name: str) -> None:
    result = bad_server.client.run(with_our_nodes(text_to_image(name)))
    assert_one_sentence(result, "is not in the checkpoints folder")


@pytest.mark.parametrize(
    ("width", "height", "value", "says"),
    [
        (0, 8, 0.0, "The latent has no size"),
        (8, 0, 0.0, "The latent has no size"),
        (4096, 4096, 0.0, "make the picture or the batch smaller"),
    ],
)
def test_a_latent_of_senseless_size_is_refused(
    bad_server: Server, expected: torch.Tensor, width: int, height: int, value: float, says: str
) -> None:
    graph = with_our_nodes(text_to_image())
    graph["latent"] = node("TestLatent", width=width, height=height, value=value)
    assert_one_sentence(bad_server.client.run(graph), says)
    assert torch.equal(good_result(bad_server), expected)


def test_a_latent_without_size_is_refused_by_the_decoder(bad_server: Server) -> None:
    graph = with_our_nodes(text_to_image())
    graph["latent"] = node("TestLatent", width=0, height=8, value=0.0)
    graph["decode"]["inputs"]["samples"] = ["latent", 0]
    assert_one_sentence(bad_server.client.run(graph), "The latent has no size")


@pytest.mark.parametrize("device", ["gpu number one", "xpu:", "xpu:-1", "../cpu", "", "x" * 200, 7])
def test_a_malformed_device_is_refused_before_anything_runs(bad_server: Server, device: object) -> None:
    graph = with_our_nodes(text_to_image())
    graph["sampler"]["inputs"]["device"] = device
    result = bad_server.client.run(graph)
    assert result.error is not None
    assert result.prompt_id == "", "the prompt was queued"
    assert "is not a device name, use auto, cpu or a name such as xpu:0." in json.dumps(result.error)


@pytest.mark.core
def test_a_device_that_is_missing_is_replaced_and_said(bad_server: Server, expected: torch.Tensor) -> None:
    graph = with_our_nodes(text_to_image(), device="xpu:7")
    result = run_ok(bad_server, graph)
    for name in ("checkpoint", "sampler", "decode"):
        (stage,) = result.outputs[name]["xpu"]
        assert (stage["requested"], stage["effective"]) == ("xpu:7", "cpu")
        assert "xpu:7 is not on this machine" in stage["reason"]
        assert "asked for xpu:7" in result.outputs[name]["text"][0]
    assert "xpu:7 is not on this machine" in bad_server.log_text()


@pytest.mark.core
def test_two_prompts_at_once_both_succeed(bad_server: Server, expected: torch.Tensor) -> None:
    graphs = [with_our_nodes(text_to_image(seed=seed)) for seed in (21, 22)]
    results: list[Result] = []
    clients = [Client(bad_server.address) for _ in graphs]
    threads = [
        threading.Thread(target=lambda client=client, graph=graph: results.append(client.run(graph)))
        for client, graph in zip(clients, graphs, strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [result.message for result in results] == ["", ""]
    assert torch.equal(good_result(bad_server), expected)


@pytest.mark.core
def test_an_interrupted_prompt_ends_and_the_next_is_right(bad_server: Server, expected: torch.Tensor) -> None:
    graph = with_our_nodes(text_to_image(steps=500))

    def stop_at_step_two(kind: str, data: dict[str, object]) -> None:
        if kind == "progress" and data["value"] == 2:
            bad_server.client.post("/interrupt", {})

    started = time.monotonic()
    result = bad_server.client.run(graph, on_event=stop_at_step_two)
    assert result.interrupted
    steps = [data["value"] for _, kind, data in result.events if kind == "progress"]
    assert max(steps) < 100, f"it ran on for {time.monotonic() - started:.0f} s"
    assert torch.equal(good_result(bad_server), expected)


def test_a_malformed_prompt_is_refused(bad_server: Server) -> None:
    with pytest.raises(urllib.error.HTTPError):
        bad_server.client.post("/prompt", {"prompt": {"1": {"class_type": "XPUKSampler", "inputs": {}}}})


@pytest.mark.parametrize(
    ("name", "value"), [("precision", "fp8"), ("sampler_name", "no-such-sampler"), ("scheduler", "no-such-scheduler")]
)
def test_a_choice_that_is_not_offered_is_refused(bad_server: Server, name: str, value: str) -> None:
    graph = with_our_nodes(text_to_image())
    graph["sampler"]["inputs"][name] = value
    result = bad_server.client.run(graph)
    assert result.prompt_id == "", "the prompt was queued"
    assert f"{value} is not offered" in json.dumps(result.error)

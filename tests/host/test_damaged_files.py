"""Damaged files of every kind end in one sentence that says what is wrong with them."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from tests.harness.server import Server, running_server
from tests.harness.workflows import Workflow, node, text_to_image, with_our_nodes

from .conftest import PACKS, run_ok
from .graphs import controlnet
from .test_bad_input import LOADERS, assert_one_sentence

Weights = dict[str, torch.Tensor]

ALL_LOADERS = {"XPULoadCheckpoint": ("ckpt_name", "checkpoints", "sd15-tiny", {}), **LOADERS}


def without(part: str) -> Callable[[Weights], Weights]:
    return lambda weights: {key: value for key, value in weights.items() if part not in key}


def with_nan(key: str) -> Callable[[Weights], Weights]:
    return lambda weights: {**weights, key: torch.full_like(weights[key], float("nan"))}


def resized(key: str) -> Callable[[Weights], Weights]:
    return lambda weights: {**weights, key: weights[key].repeat(2, *[1] * (weights[key].dim() - 1))}


def only(part: str) -> Callable[[Weights], Weights]:
    return lambda weights: {key: value for key, value in weights.items() if part in key}


# (loader, what is done to its good file, what the sentence must say)
DAMAGES: dict[str, tuple[str, Callable[[Weights], Weights], str]] = {
    "clip-layer": ("XPULoadCLIP", without(".layers.3."), "lacks weights (text_model.encoder.layers.3."),
    "clip-bias": ("XPULoadCLIP", without(".layers.3.mlp.fc1.bias"), "lacks weights (text_model.encoder.layers.3."),
    "vision-layer": ("XPULoadCLIPVision", without(".layers.5.mlp."), "lacks weights (vision_model.encoder.layers.5."),
    "vision-kind": ("XPULoadCLIPVision", only(".layers.5."), "holds no CLIP vision model"),
    "control-part": ("XPULoadControlNet", without("middle_block.0."), "lacks weights (middle_block.0."),
    "control-kind": ("XPULoadControlNet", only("time_embed"), "holds no ControlNet"),
    "vae-decoder": ("XPULoadVAE", without("decoder.mid.attn_1.k.bias"), "lacks weights (decoder.mid.attn_1.k.bias)"),
    "vae-kind": ("XPULoadVAE", only("encoder.down.0.block.1."), "holds no VAE"),
    "unet-shape": (
        "XPULoadDiffusionModel",
        resized("model.diffusion_model.time_embed.0.bias"),
        "holds weights of unexpected shapes",
    ),
    "unet-00001-of-00002": (
        "XPULoadDiffusionModel",
        without("output_blocks"),
        "is part 1 of the 2 that a model was split into, and ComfyUI loads one file",
    ),
    "unet-kind": ("XPULoadDiffusionModel", without(".attn2.to_k.weight"), "lacks parts that tell its kind"),
}


def graph_of(loader: str, file: str) -> Workflow:
    """A graph that does nothing but load a file."""
    name, _, _, further = ALL_LOADERS[loader]
    return {
        "load": node(loader, **{name: file}, **further, device="auto", precision="auto"),
        "show": node("PreviewAny", source=["load", 0]),
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, models: Path) -> Path:
    """A models folder with the good files, and beside them those that a test makes."""
    folder = tmp_path_factory.mktemp("models")
    for source in models.glob("*/*.safetensors"):
        target = folder / source.parent.name / source.name
        target.parent.mkdir(exist_ok=True)
        target.symlink_to(source)
    return folder


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, host: Path, folder: Path) -> Iterator[Server]:
    with running_server(tmp_path_factory.mktemp("damaged"), models=folder, host=host, packs=PACKS) as running:
        yield running


@pytest.fixture
def make(folder: Path) -> Iterator[Callable[..., str]]:
    """Makes a file of a loader's good one, and removes it after the test."""
    made: list[Path] = []

    def damaged(loader: str, change: Callable[[Weights], Weights], name: str) -> str:
        _, kind, good, _ = ALL_LOADERS[loader]
        made.append(folder / kind / f"{name}.safetensors")
        save_file(change(load_file(folder / kind / f"{good}.safetensors")), made[-1])
        return made[-1].name

    yield damaged
    for path in made:
        path.unlink(missing_ok=True)


@pytest.mark.core
@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_file_is_refused_with_what_is_wrong(server: Server, make: Callable[..., str], name: str) -> None:
    loader, change, says = DAMAGES[name]
    assert_one_sentence(server.client.run(graph_of(loader, make(loader, change, name))), says)


def write_picture(path: Path) -> None:
    Image.new("RGB", (8, 8)).save(path, "PNG")


def write_page(path: Path) -> None:
    path.write_text("<!DOCTYPE html><title>404</title>")


def write_list(path: Path) -> None:
    torch.save([torch.ones(2)], path)


def write_truncated(path: Path) -> None:
    torch.save({"weight": torch.ones(64, 64)}, path)
    path.write_bytes(path.read_bytes()[:-1000])


def write_old_truncated(path: Path) -> None:
    torch.save({"weight": torch.ones(64, 64)}, path, _use_new_zipfile_serialization=False)
    path.write_bytes(path.read_bytes()[:-1000])


def write_bare_pickle(path: Path) -> None:
    path.write_bytes(pickle.dumps({"weight": 1.0}, protocol=2))


@pytest.mark.parametrize("loader", ALL_LOADERS)
@pytest.mark.parametrize(
    ("write", "says"),
    [
        (write_picture, "is a PNG picture, not a PyTorch file"),
        (write_page, "is a web page"),
        (write_list, "holds a list, not weights by name"),
        (write_truncated, "is truncated or corrupt"),
        (write_old_truncated, "is truncated or corrupt"),
        (write_bare_pickle, "is truncated or corrupt"),
    ],
)
def test_a_damaged_pickle_is_refused_with_what_is_wrong(
    server: Server, folder: Path, loader: str, write: Callable[[Path], None], says: str
) -> None:
    path = folder / ALL_LOADERS[loader][1] / f"{write.__name__}.pt"
    write(path)
    assert_one_sentence(server.client.run(graph_of(loader, path.name)), says)


@pytest.mark.core
@pytest.mark.parametrize("loader", ALL_LOADERS)
@pytest.mark.parametrize(("header", "says"), [(b"{}", "holds no tensors"), (b"[" * 200_000, "(its header is damaged)")])
def test_a_damaged_header_is_refused_with_what_is_wrong(
    server: Server, folder: Path, loader: str, header: bytes, says: str
) -> None:
    path = folder / ALL_LOADERS[loader][1] / f"header-{len(header)}.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    assert_one_sentence(server.client.run(graph_of(loader, path.name)), says)


@pytest.mark.parametrize("further", ["clip_name2", "clip_name3", "clip_name4"])
def test_every_file_of_a_text_encoder_is_looked_into(server: Server, folder: Path, further: str) -> None:
    path = folder / "text_encoders" / f"{further}.pt"
    write_page(path)
    graph = graph_of("XPULoadCLIP", "clip-l.safetensors")
    graph["load"]["inputs"][further] = path.name
    assert_one_sentence(server.client.run(graph), f"{path.name} is a web page")


def test_files_of_a_text_encoder_keep_their_order_however_a_prompt_lists_them(server: Server, folder: Path) -> None:
    graph = graph_of("XPULoadCLIP", "clip-l.safetensors")
    for further in ("clip_name4", "clip_name2"):
        path = folder / "text_encoders" / f"order-{further}.pt"
        write_page(path)
        graph["load"]["inputs"][further] = path.name
    assert_one_sentence(server.client.run(graph), "order-clip_name2.pt is a web page")


def test_a_text_encoder_with_nan_is_named(server: Server, make: Callable[..., str]) -> None:
    file = make("XPULoadCLIP", with_nan("text_model.encoder.layers.3.mlp.fc1.bias"), "clip-nan")
    graph = graph_of("XPULoadCLIP", file)
    graph["encode"] = node("CLIPTextEncode", text="a lighthouse", clip=["load", 0])
    graph["show"]["inputs"]["source"] = ["encode", 0]
    assert_one_sentence(server.client.run(graph), "The conditioning holds NaN because the weights do")


def test_a_vae_with_nan_is_named(server: Server, make: Callable[..., str]) -> None:
    file = make("XPULoadVAE", with_nan("decoder.conv_out.bias"), "vae-nan")
    graph = graph_of("XPULoadVAE", file)
    graph["latent"] = node("EmptyLatentImage", width=64, height=64, batch_size=1)
    graph["decode"] = node("XPUVAEDecode", samples=["latent", 0], vae=["load", 0], device="auto", precision="auto")
    graph["show"]["inputs"]["source"] = ["decode", 0]
    assert_one_sentence(
        server.client.run(graph), "The decoded picture holds NaN because the weights do (decoder.conv_out"
    )


def test_a_controlnet_with_nan_is_named(server: Server, make: Callable[..., str]) -> None:
    graph = with_our_nodes(controlnet())
    graph["control"]["inputs"]["control_net_name"] = make(
        "XPULoadControlNet", with_nan("middle_block_out.0.bias"), "control-nan"
    )
    assert_one_sentence(
        server.client.run(graph), "The ControlNet's weights hold NaN (middle_block_out.0.bias): its file is damaged"
    )


@pytest.mark.parametrize(
    ("prefix", "part", "place", "says"),
    [
        ("cond_stage_model.", "text encoder", {"XPUPlaceCLIP": ("clip", 1)}, "holds no text encoder: load one with"),
        ("cond_stage_model.", "text encoder", {"XPUPlace": ("anything", 1)}, "holds no such part: load it by its own"),
        ("first_stage_model.", "VAE", {"XPUPlaceVAE": ("vae", 2)}, "holds no VAE: load one with"),
    ],
)
def test_a_checkpoint_without_a_part_says_so_and_its_part_is_refused_where_it_is_used(
    server: Server,
    make: Callable[..., str],
    prefix: str,
    part: str,
    place: dict[str, tuple[str, int]],
    says: str,
) -> None:
    file = make("XPULoadCheckpoint", without(prefix), f"without-{prefix}{next(iter(place))}")
    graph = graph_of("XPULoadCheckpoint", file)
    shown = run_ok(server, graph).outputs["load"]
    assert f"\nthe file holds no {part}" in shown["text"][0]
    (stage,) = shown["xpu"]
    assert (stage["effective"], stage["reason"], stage["notes"][1:]) == ("cpu", "", [f"the file holds no {part}"])
    assert "a diffusion model of " in stage["notes"][0], "told before it was read"
    ((node_class, (name, output)),) = place.items()
    inputs: dict[str, Any] = {name: ["load", output], "device": "auto", "precision": "auto"}
    graph["place"] = node(node_class, **inputs)
    graph["show"]["inputs"]["source"] = ["place", 0]
    assert_one_sentence(server.client.run(graph), says)


@pytest.mark.parametrize(("width", "height"), [(4, 64), (64, 4), (1, 1)])
def test_a_picture_too_small_to_encode_is_refused(server: Server, width: int, height: int) -> None:
    graph = graph_of("XPULoadVAE", "vae-sd15.safetensors")
    graph["picture"] = node("EmptyImage", width=width, height=height, batch_size=1, color=0x884422)
    graph["encode"] = node("XPUVAEEncode", pixels=["picture", 0], vae=["load", 0], device="auto", precision="auto")
    graph["show"]["inputs"]["source"] = ["encode", 0]
    assert_one_sentence(server.client.run(graph), "is too small for this VAE: make it at least 8x8")


def test_a_latent_whose_picture_no_memory_holds_is_refused_by_the_decoder(server: Server) -> None:
    graph = with_our_nodes(text_to_image())
    graph["latent"] = node("TestLatent", width=1 << 18, height=1 << 18)
    graph["decode"]["inputs"]["samples"] = ["latent", 0]
    assert_one_sentence(server.client.run(graph), "more memory than this machine has")

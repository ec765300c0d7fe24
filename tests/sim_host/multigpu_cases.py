"""Our loaders and streaming beside MultiGPU, DisTorch and tensors of other packs; see worker.py."""

from __future__ import annotations

from typing import Any

import comfy.model_management as model_management
import folder_paths
import torch

from tests import xpu_sim
from tests.harness.models import MODELS
from tests.neighbours import multigpu
from xpu_utils.decision import Streaming
from xpu_utils.host import hooks, neighbours, streaming
from xpu_utils.host.inventory import placement_for
from xpu_utils.host.loading import load as loaders

for folder in ("checkpoints", "diffusion_models"):
    folder_paths.add_model_folder_path(folder, str(MODELS / folder))


def _model(device: str = "xpu:0", resident: str = "auto") -> Any:
    name, placement = "sd15-tiny-unet.safetensors", placement_for(device, "fp16", resident)
    return loaders.load_diffusion_model(name, "default", placement)[0]


def _told() -> str:
    return next(str(hook) for hook in hooks.hooks() if hook.name == streaming.HOOK)


def _stays_as_it_is(model: Any) -> bool:
    """Whether streaming, attached again, leaves a model alone."""
    session = model.get_attachment(streaming.ATTACHMENT)
    streaming.attach(model, Streaming(0.45, streaming.obstacle(model)))
    return model.get_attachment(streaming.ATTACHMENT) is session


def case_loading_to_another_device_than_theirs() -> dict[str, Any]:
    """Bytes copied to each device while a file is loaded to the second one and used there."""
    found = {}
    for name in ("checkpoint", "diffusion model"):
        xpu_sim.current().reset_statistics()
        if name == "checkpoint":
            (model, *_), _ = loaders.load_checkpoint("sd15-tiny.safetensors", placement_for("xpu:1", "fp16"))
        else:
            model = _model("xpu:1")
        model_management.load_models_gpu([model], force_full_load=True)
        copies = [copy for copy in xpu_sim.current().statistics().copies if copy.direction == "host_to_device"]
        bytes_to = [sum(copy.bytes for copy in copies if copy.device == index) for index in range(2)]
        devices = sorted({str(weight.device) for weight in model.model.parameters()})
        found[name] = {"bytes": bytes_to, "devices": devices, "weights": model.model_size()}
        del model
        model_management.unload_all_models()
    return found


def case_a_model_that_distorch_shares_out() -> dict[str, str]:
    """What the hook list says of streaming when it is shared out before it is placed, and after."""
    before = _model(resident="45%")
    attached = _told()
    multigpu.share_out(before)
    taken = _told()
    same = _stays_as_it_is(before)
    present = "; ".join(name for name, _ in neighbours.present())
    return {"present": present, "attached": attached, "taken": taken, "again": _told(), "same": str(same)}


class Coded(torch.Tensor):
    """Weights of another pack's kind, of which nobody else knows what they mean."""


def case_weights_of_another_kind() -> dict[str, str]:
    """What becomes of streaming where a weight does not tell what it is made of."""
    model = _model()
    layer = next(module for module in model.model.modules() if isinstance(module, torch.nn.Linear))
    layer._parameters["weight"] = torch.nn.Parameter(layer.weight.detach().as_subclass(Coded), requires_grad=False)
    same = _stays_as_it_is(model)
    return {"told": _told(), "same": str(same)}

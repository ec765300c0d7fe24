"""XPUOllamaPrompt: text from a language model on the user's own Ollama server."""

from __future__ import annotations

import os
from inspect import cleandoc

from comfy_api.latest import io

from ..xpu_utils.host.ollama import ask_with_progress
from ..xpu_utils.ollama.client import ModelMenu, Question
from .base import TOOLS, aliases

_menu = ModelMenu(wait_s=0)  # ComfyUI asks while it starts: names that come late are there the next time


class XPUOllamaPrompt(io.ComfyNode):
    """
    Asks a language model on your Ollama server to write or improve a prompt.

    The graph names only the model. Which servers may be asked is set on this machine, in the
    environment variable XPU_NODES_OLLAMA_HOSTS (http://127.0.0.1:11434 when unset).

    When Ollama shares the device with the sampler, its model is unloaded as soon as the answer is
    there and keep_alive is ignored.
    """

    @classmethod
    def define_schema(cls) -> io.Schema:
        tooltip = "A model your server has. Press R after `ollama pull` to refresh the list."
        model = io.Combo.Input("model", options=list(_menu.names(os.environ)), tooltip=tooltip)
        return io.Schema(
            node_id="XPUOllamaPrompt",
            display_name="XPU Ollama Prompt",
            category=TOOLS,
            description=cleandoc(cls.__doc__ or ""),
            inputs=[model, *_text_inputs(), *_setting_inputs()],
            outputs=[io.String.Output(display_name="text")],
            hidden=[io.Hidden.unique_id],
            **aliases("llm", "prompt", "language model"),
        )

    @classmethod
    def validate_inputs(cls, model: str | None = None) -> bool:
        # Naming the input here keeps ComfyUI from refusing a model that the list lacks just now;
        # the server's own list decides when the node runs.
        return True

    @classmethod
    def execute(
        cls,
        model: str,
        instruction: str,
        text: str,
        seed: int,
        temperature: float,
        max_tokens: int,
        keep_alive: int,
        time_limit: float,
    ) -> io.NodeOutput:
        question = Question(
            model=model,
            instruction=instruction,
            text=text,
            seed=seed,
            temperature=temperature,
            max_tokens=max_tokens,
            keep_alive_s=keep_alive,
            time_limit_s=time_limit,
        )
        return io.NodeOutput(ask_with_progress(question, node_id=cls.hidden.unique_id))


def _text_inputs() -> list[io.Input]:
    instruction = "Rewrite the text as one detailed prompt for an image model. Answer with the prompt only."
    tooltip = "What the model is to do with the text (its system prompt)."
    return [
        io.String.Input("instruction", multiline=True, default=instruction, tooltip=tooltip),
        io.String.Input("text", multiline=True, default="", tooltip="What the model works on."),
    ]


def _setting_inputs() -> list[io.Input]:
    same = "Same seed, model and text: same answer."
    stays = "Seconds the model stays loaded afterwards; -1: for ever. Ignored when Ollama shares the device."
    patience = "Seconds until the node gives up, loading the model included."
    return [
        io.Int.Input("seed", default=0, min=0, max=2**31 - 1, control_after_generate=True, tooltip=same),
        io.Float.Input("temperature", default=0.7, min=0.0, max=2.0, step=0.05, tooltip="0 is the most predictable."),
        io.Int.Input("max_tokens", default=512, min=1, max=8192, tooltip="The answer ends here at the latest."),
        io.Int.Input("keep_alive", default=300, min=-1, max=86400, tooltip=stays),
        io.Float.Input("time_limit", default=120.0, min=1.0, max=3600.0, step=1.0, tooltip=patience),
    ]


NODES = (XPUOllamaPrompt,)

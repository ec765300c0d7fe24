"""The prompt and the node that are being executed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from comfy_execution.utils import get_executing_context
from server import PromptServer

from . import hooks

ANEW_HOOK = hooks.named("nodes after lost data")


def current_prompt_id() -> str:
    """The id of the prompt whose node is being executed in this thread; empty outside of one."""
    context = get_executing_context()
    return "" if context is None else context.prompt_id


def current_node_id() -> str:
    """The id of the node that is being executed in this thread; empty outside of one."""
    context = get_executing_context()
    return "" if context is None else str(context.node_id)


def current_execution() -> object:
    """Equal within one execution of a node (for each item of a list there is one); None outside of any."""
    return get_executing_context()


def current_graph() -> Mapping[str, Any]:
    """The nodes of the prompt that is being executed which its outputs need, by their ids; none outside of one."""
    server, prompt_id = PromptServer.instance, current_prompt_id()
    running = [] if server is None else [*server.prompt_queue.currently_running.values()]
    graph, outputs = next(((item[2], item[4]) for item in running if item[1] == prompt_id), ({}, ()))
    needed: dict[str, Any] = {}
    left = [*outputs]
    while left:
        name = left.pop()
        if name in graph and name not in needed:
            needed[name] = graph[name]
            left.extend(value[0] for value in graph[name]["inputs"].values() if is_link(value))
    return needed


def is_link(value: Any) -> bool:
    """Whether an input is another node's output, by that node's id and the output's index."""
    return isinstance(value, list) and [*map(type, value)] == [str, int]


def execute_all_anew() -> None:
    """Has ComfyUI forget what nodes have answered, before the next prompt: some of it is on a device that is gone."""
    if PromptServer.instance is not None:  # as in a script
        does = "all nodes are executed anew after data was lost with its device"
        hooks.ask_queue(ANEW_HOOK, PromptServer.instance.prompt_queue, "free_memory", does)

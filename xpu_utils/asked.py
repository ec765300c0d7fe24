"""How a ComfyUI knows that it is a worker's, and what it is asked then."""

WORKER_VARIABLE = "XPU_NODES_WORKER"
"""Set by who starts it."""
CHECK = "/xpu/check"
"""A route that answers whether it would take a prompt."""

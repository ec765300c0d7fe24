"""`python -m tests.bench.pressure_holder DEVICE BYTES`: holds all but so much of a device until its input ends."""

from __future__ import annotations

import sys

import torch

_PIECE_BYTES = 64 << 20


def main() -> None:
    """Allocates, says so with a line, and waits."""
    device, free_bytes = torch.device(sys.argv[1]), int(sys.argv[2])
    module = torch.get_device_module(device.type)
    held = [torch.empty(1, device=device)]
    while (surplus_bytes := module.mem_get_info(device)[0] - free_bytes) > _PIECE_BYTES:
        # Halves: what an allocator rounds up must not miss the mark.
        held.append(torch.empty(max(_PIECE_BYTES, surplus_bytes // 2), dtype=torch.uint8, device=device))
    sys.stdout.write(f"{len(held)}\n")
    sys.stdout.flush()
    sys.stdin.read()


if __name__ == "__main__":
    main()

"""What every ComfyUI offers of what we touch: facts recorded from hosts, and our code checked against them."""

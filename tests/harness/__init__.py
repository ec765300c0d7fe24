"""What tests and the demo need around the pack: a real ComfyUI host, its server, an API client, checkpoints."""

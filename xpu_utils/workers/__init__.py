"""Workers: each a whole ComfyUI server with this pack, bound to one device, in an actor of Ray."""

"""What a device does with the operations that diffusion models are made of."""

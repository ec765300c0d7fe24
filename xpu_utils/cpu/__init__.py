"""The CPU as a device: what it is good at, and the layers and attention that use it."""

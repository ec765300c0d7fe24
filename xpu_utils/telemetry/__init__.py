"""What the devices are doing: memory, load, temperature, power, each figure with the source it came from."""

"""How much of a device is free, how much is needed, and how work is cut to fit."""

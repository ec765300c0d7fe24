"""Models larger than their device: what stays, what passes through, and when."""

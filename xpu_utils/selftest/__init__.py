"""What a device computes rightly, found by computing it."""

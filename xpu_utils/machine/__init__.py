"""What is there: devices, what is known of their architecture, the host's memory, and where measurements are kept."""

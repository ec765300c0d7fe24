"""What fails, what is tried then, and the record of both."""

"""What a real card does, for people who own one: every part measured in a process of its own, in one report."""

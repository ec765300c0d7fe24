"""Where an object runs and in which format: set here."""

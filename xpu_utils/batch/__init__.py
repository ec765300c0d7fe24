"""Many jobs from one workflow, each done once by whichever worker is idle."""

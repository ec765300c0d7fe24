"""Why a device is not used, or not well: checks over the facts of a machine, each finding with its fix."""

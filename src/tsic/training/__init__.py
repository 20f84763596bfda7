"""From a configuration to a folder with the trained student: steps, checkpoints, logs, report."""

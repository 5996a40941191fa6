"""Training with Lightning: the module, its checkpoints, loggers, schedulers and callbacks."""

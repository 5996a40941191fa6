"""Training with Lightning: the LightningModule, checkpoints, loggers, schedulers and callbacks."""

"""What each command does; `vae_lab.train` and its siblings call it."""

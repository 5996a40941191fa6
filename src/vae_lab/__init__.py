"""Variational autoencoders, composed on the command line and right to the last constant."""

__version__ = "0.1.0"

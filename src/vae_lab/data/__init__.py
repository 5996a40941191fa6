"""Data: images in memory as uint8, dealt in a seeded order; a batch becomes numbers on the device."""

from vae_lab.data.folder import Folder
from vae_lab.data.images import ImageData
from vae_lab.data.sets import CIFAR10, MNIST, Digits, Downloaded

__all__ = ["CIFAR10", "MNIST", "Digits", "Downloaded", "Folder", "ImageData"]

"""Image data sets, held in memory as uint8 and converted to floating point on the device, batch by batch."""

from vae_lab.data.folder import Folder
from vae_lab.data.images import ImageData
from vae_lab.data.sets import CIFAR10, MNIST, Digits, Downloaded

__all__ = ["CIFAR10", "MNIST", "Digits", "Downloaded", "Folder", "ImageData"]

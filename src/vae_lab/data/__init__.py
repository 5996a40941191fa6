"""Data: images in memory as uint8, dealt in a seeded order; a batch becomes numbers on the device."""

from vae_lab.data.batches import Batches, Plan, Stream, seeds
from vae_lab.data.folder import Folder
from vae_lab.data.images import ImageData, Images, ImageShape, Raw, bernoulli
from vae_lab.data.sets import CIFAR10, MNIST, Digits, Downloaded
from vae_lab.noise import seed_device

__all__ = [
    "CIFAR10",
    "MNIST",
    "Batches",
    "Digits",
    "Downloaded",
    "Folder",
    "ImageData",
    "ImageShape",
    "Images",
    "Plan",
    "Raw",
    "Stream",
    "bernoulli",
    "seed_device",
    "seeds",
]

"""Regenerate the images in docs/gallery: run the commands in docs/experiments.md and compress the figures.

    python docs/gallery.py

<name>/<figure>.png becomes gallery/<name>_<figure>.webp. Completed runs are not trained again, so the script can be
stopped and restarted.
"""

import io
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path

from PIL import Image, ImageOps

DOCS = Path(__file__).resolve().parent
PAGE = DOCS / "experiments.md"
MOST = 150_000  # largest size of an image, in bytes
# figures of experiment=manifold, shown side by side at the top of the README
COVER = ("manifold.png", "latent_map.png")
BACKGROUND = "white"


def commands(page: str) -> list[list[str]]:
    """Return the commands on a page, each as a list of arguments."""
    blocks = re.findall(r"```bash\n(.*?)```", page, re.DOTALL)
    return [shlex.split(line, comments=True) for block in blocks for line in block.splitlines()]


def small(picture: Image.Image) -> bytes:
    """Return an image as WebP with at most `MOST` bytes, at the highest quality that this allows.

    Raises:
        ValueError: if the image is too large even at low quality.
    """
    for quality in range(90, 30, -10):
        file = io.BytesIO()
        picture.convert("RGB").save(file, "WEBP", quality=quality, method=6)
        if file.tell() <= MOST:
            return file.getvalue()
    raise ValueError(
        f"an image of {picture.width}×{picture.height} pixels needs more than {MOST} bytes; use a smaller scale"
    )


def beside(pictures: list[Image.Image], height: int = 620) -> Image.Image:
    """Return images side by side, all scaled to the same height."""
    scaled = [ImageOps.contain(picture.convert("RGB"), (10 * height, height)) for picture in pictures]
    row = Image.new("RGB", (sum(each.width for each in scaled), height), BACKGROUND)
    for number, each in enumerate(scaled):
        row.paste(each, (sum(before.width for before in scaled[:number]), 0))
    return row


def main() -> None:
    """Run every command and write its images."""
    root, gallery = DOCS.parent, DOCS / "gallery"
    gallery.mkdir(exist_ok=True)
    for python, *arguments in commands(PAGE.read_text()):
        print(python, *arguments, flush=True)
        begun = time.time()
        subprocess.run([sys.executable, *arguments], cwd=root, check=True)
        for out in [each.removeprefix("out=") for each in arguments if each.startswith("out=")]:
            for file in sorted((root / out).glob("*.png")):
                if file.stat().st_mtime >= begun:  # written by this command
                    with Image.open(file) as picture:
                        (gallery / f"{file.parent.name}_{file.stem}.webp").write_bytes(small(picture))
            if (root / out).name == "manifold":
                pictures = [Image.open(root / out / name) for name in COVER]
                (gallery / "cover.webp").write_bytes(small(beside(pictures)))


if __name__ == "__main__":
    main()

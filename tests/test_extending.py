"""docs/extending.md does what it says: its files are written, its commands run."""

import json
import re
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from conftest import ROOT, make_batch, make_vae
from vae_lab import runs
from vae_lab.errors import ConfigError
from vae_lab.generate import generate

PAGE = (ROOT / "docs" / "extending.md").read_text()
COMMANDS = [line for block in re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL) for line in block.splitlines()]


@pytest.mark.parametrize("line", COMMANDS)
def test_its_commands_train(
    command: Callable[..., subprocess.CompletedProcess[str]], mine: Path, tmp_path: Path, line: str
) -> None:
    python, dash, module, *arguments = shlex.split(line)
    assert (python, dash) == ("python", "-m")
    figures = [] if "callbacks=[default,mean_image]" in arguments else ["callbacks=none"]
    done = command(*arguments, "trainer.max_epochs=2", *figures, module=module)
    assert done.returncode == 0, done.stderr
    if not figures:
        (run,) = tmp_path.glob("outputs/vae/*")
        assert (run / "figures" / "mean_image" / "epoch-0002.png").exists()
        assert "They should be the same." in (run / "report.html").read_text()
        assert generate([f"run={run}", "figure=mean_image", "figures.mean_image.n=5"])[0].name == "mean_image.png"
    found = sorted(tmp_path.glob("outputs/vae/*/metrics.json"))
    assert len(found) == (4 if "-m" in arguments else 1)
    for file in found:
        run = runs.load(file.parent)
        assert type(run.data).__name__ == "Squares"
        assert "test/log_likelihood" in json.loads(file.read_text())
        expected = "Laplace" if "likelihood=laplace" in line else "Gaussian"
        assert type(run.module.vae.decoder.head).__name__ == expected


def test_its_parts_are_right(mine: Path) -> None:
    from mine import parts

    x = torch.linspace(-4, 5, 20_001, dtype=torch.float64)
    density = parts.Laplace(0.3)(torch.zeros(1, 1, 1, dtype=torch.float64)).log_prob(x[:, None, None, None]).exp()
    assert torch.trapezoid(density, x).item() == pytest.approx(1, abs=1e-6)
    with (
        pytest.raises(ConfigError, match=r"^likelihood\.scale=0: must be greater than 0$"),
        runs.build.blame("likelihood"),
    ):
        parts.Laplace(scale=0)
    vae, batch = make_vae(), make_batch()
    loss, terms = parts.BetaTC(beta=1.0, images=100)(vae, batch, 0)
    kl = terms["mutual_information"] + terms["total_correlation"] + terms["dimension_wise_kl"]
    torch.testing.assert_close(loss, (kl - terms["log_likelihood"]).mean())
    torch.manual_seed(0)
    six, _ = parts.BetaTC(beta=6.0, images=100)(vae, batch, 0)
    torch.manual_seed(0)
    one, terms = parts.BetaTC(beta=1.0, images=100)(vae, batch, 0)
    torch.testing.assert_close(six, one + 5 * terms["total_correlation"].mean())
    image = torch.rand(2, 1, 5, 5)
    assert parts.Blur(3)(image)[0, 0, 2, 2].item() == pytest.approx(image[0, 0, 1:4, 1:4].mean().item())
    images, labels = parts.Squares(images=50, shape=(1, 16, 16)).read(train=True)
    assert torch.equal((images > 0).sum((1, 2, 3)), (labels + 2) ** 2)

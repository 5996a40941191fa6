"""The files and commands of docs/extending.md work as described."""

import json
import re
import shlex
import subprocess
from collections.abc import Callable
from math import log
from pathlib import Path

import pytest
import torch

from conftest import ROOT, make_batch, make_vae
from vae_lab import runs
from vae_lab.errors import ConfigError
from vae_lab.generate import generate

PAGE = (ROOT / "docs" / "extending.md").read_text()
COMMANDS = [line for block in re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL) for line in block.splitlines()]


FAST = ("likelihood=laplace", "callbacks=[", "objective=beta_tc", "prior.context_dim=5")


@pytest.mark.parametrize(
    "line",
    [line if any(each in line for each in FAST) else pytest.param(line, marks=pytest.mark.slow) for line in COMMANDS],
)
def test_command_of_page_trains(
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


def test_components_of_page_are_correct(mine: Path) -> None:
    from mine import parts

    x = torch.linspace(-4, 5, 20_001, dtype=torch.float64)
    density = parts.Laplace(0.3)(torch.zeros(1, 1, 1, dtype=torch.float64)).log_prob(x[:, None, None, None]).exp()
    assert torch.trapezoid(density, x).item() == pytest.approx(1, abs=1e-6)
    with (
        pytest.raises(ConfigError, match=r"^likelihood\.scale=0: must be greater than 0$"),
        runs.build.blame("likelihood"),
    ):
        parts.Laplace(scale=0)
    vae, batch, size = make_vae(), make_batch(), log(6 * 100)
    torch.manual_seed(0)
    draw = vae.draw(batch)
    z, mean, std = draw.z[0], draw.q.mean, draw.q.stddev
    density = torch.distributions.Normal(mean, std).log_prob
    for place in range(6):  # image by image, in the notation of appendix C of the paper
        pairs = torch.stack([density(z[place])[other] for other in range(6)])  # (6, D)
        log_qz = pairs.sum(1).logsumexp(0) - size
        log_product = sum(pairs[:, latent].logsumexp(0) - size for latent in range(pairs.shape[1]))
        torch.manual_seed(0)
        loss, terms = parts.BetaTC(beta=4.0, images=100)(vae, batch, 0)
        torch.testing.assert_close(terms["total_correlation"][place], log_qz - log_product)
        torch.testing.assert_close(terms["mutual_information"][place], draw.log_posterior[0, place] - log_qz)
        torch.testing.assert_close(terms["dimension_wise_kl"][place], log_product - draw.log_prior[0, place])
    kl = terms["mutual_information"] + 4 * terms["total_correlation"] + terms["dimension_wise_kl"]
    torch.testing.assert_close(loss, (kl - terms["log_likelihood"]).mean())
    image = torch.rand(2, 1, 5, 5)
    assert parts.Blur(3)(image)[0, 0, 2, 2].item() == pytest.approx(image[0, 0, 1:4, 1:4].mean().item())
    images, labels = parts.Squares(images=50, shape=(1, 16, 16)).read(train=True)
    assert torch.equal((images > 0).sum((1, 2, 3)), (labels + 2) ** 2)


def test_importance_weighted_bound_of_page_runs() -> None:
    (block,) = re.findall(r"```python\n(from math import log\n\n.*?)```", PAGE, re.DOTALL)
    names: dict = {}
    exec(block, names)
    loss, terms = names["iwae"](make_vae(), make_batch(), 0)
    assert loss.isfinite()
    assert terms["iwae"].shape == (6,)

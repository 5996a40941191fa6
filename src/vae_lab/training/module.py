"""The LightningModule: steps, sums, optimizer, scheduler. It knows neither the model's parts nor the data."""

from collections.abc import Callable, Iterable
from math import isfinite
from typing import Any

import torch
from pytorch_lightning import LightningModule
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.optim.lr_scheduler import ReduceLROnPlateau

from vae_lab.errors import NonFiniteError
from vae_lab.metrics import Sums, squared_error
from vae_lab.model import BaseVAE, Batch
from vae_lab.objectives import Terms, elbo_terms
from vae_lab.training.schedulers import Plateau
from vae_lab.workarounds.lightning import QuickHookName

UNNORMALISED = "_unnormalised"  # ends the names of numbers that no density is behind


class VAEModule(QuickHookName, LightningModule):
    """Trains a VAE, and reports ELBO, likelihood, KL and squared error in validation and test.

    Validation and test are at β = 1 with all constants, whatever the objective minimises, from one sample of z for each
    image; `mse` is that of the reconstruction from the posterior's center. With a likelihood that is none, such as the
    cross-entropy of grey values, all but the KL, the squared error and the loss is called `…_unnormalised`.

    Args:
        vae: the model.
        objective: called with (vae, batch, step), returns the loss and terms per image (B,). One with weights of its
            own, such as a discriminator, may have `optimizer_options`, such as `{"lr": 1e-4}`, for them.
        optimizer: called with the parameters, returns an optimizer.
        scheduler: called with the optimizer, returns a learning-rate scheduler that steps every epoch; None for none.
    """

    def __init__(
        self,
        vae: BaseVAE,
        objective: Callable[[BaseVAE, Batch, int], tuple[Tensor, Terms]],
        optimizer: Callable[[Iterable[Any]], torch.optim.Optimizer] = torch.optim.Adam,
        scheduler: Callable[[torch.optim.Optimizer], Any] | None = None,
    ) -> None:
        super().__init__()
        self.vae = vae
        self.ending = "" if vae.normalised else UNNORMALISED
        self.objective = objective
        self.optimizer = optimizer
        self.scheduler = scheduler
        self.sums = Sums()  # of the epoch in training
        self.evaluation = Sums()  # of a validation or a test
        self.terms: Terms = {}  # of the step in progress, to tell which one is not finite
        self.numbers: dict[str, float] = {}  # since the last row: train/loss, val/elbo, …
        self.vectors: dict[str, list[float]] = {}  # the same of what has a value for each latent: val/kl_per_dimension
        self.epoch = 0  # how many the weights have seen

    @property
    def best_metric(self) -> str:
        """Metric of a validation that tells the best checkpoint."""
        if not self.vae.has_density:
            return "val/mse"
        return f"val/elbo{self.ending}"

    def trained(self) -> Iterable[Any]:
        """Return the parameters to train, in groups where those of the objective have options of their own.

        Lightning's automatic optimization, which clipping, accumulation and precision need, steps one optimizer.
        """
        options = getattr(self.objective, "optimizer_options", None)
        if not options:
            return self.parameters()
        if not isinstance(self.objective, torch.nn.Module):
            raise ValueError("an objective with `optimizer_options` must be a torch.nn.Module, which holds its weights")
        return [{"params": self.vae.parameters()}, {"params": self.objective.parameters(), **options}]

    def configure_optimizers(self) -> OptimizerLRScheduler:
        optimizer = self.optimizer(self.trained())
        if self.scheduler is None:
            return optimizer
        scheduler = self.scheduler(optimizer)
        if isinstance(scheduler, ReduceLROnPlateau) and not isinstance(scheduler, Plateau):
            raise ValueError("torch's ReduceLROnPlateau does not say which loss it is for: take scheduler=plateau")
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "reduce_on_plateau": False}}

    def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
        """Do nothing: `on_train_epoch_end` does it, which has the epoch's numbers and comes before the checkpoint."""

    def on_train_epoch_start(self) -> None:
        self.vectors = {}  # callbacks have seen those of the epoch before

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        loss, terms = self.objective(self.vae, batch, self.global_step)
        self.terms = self.sums.add({"loss": loss.expand(len(batch.target)), **self.labelled(terms)})
        if batch_idx % 50 == 0 and self.trainer.progress_bar_callback is not None:
            self.log("loss", loss, prog_bar=True, logger=False)
        return loss

    def on_before_backward(self, loss: Tensor) -> None:
        """Stop before a loss that is not finite reaches the weights."""
        if not isfinite(loss.item()):
            wrong = [name for name, term in self.terms.items() if term.dim() == 1 and not torch.isfinite(term).all()]
            raise NonFiniteError(
                f"{', '.join(wrong)} not finite at step {self.global_step} (epoch {self.current_epoch + 1}): "
                "stopped before the weights changed; try a smaller optimizer.lr or trainer.gradient_clip_val"
            )

    def on_train_epoch_end(self) -> None:
        """Log the epoch, as one row with what its validation gave, and step the scheduler."""
        self._log("train", self.sums)
        self.epoch = self.current_epoch + 1
        if self.scheduler is not None:
            self._step(self.lr_schedulers())
        for logger in self.loggers:
            logger.log_metrics({"epoch": self.current_epoch + 1, **self.numbers}, step=self.global_step)
        self.numbers = {}  # an epoch without a validation has no numbers of one

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self.evaluation.add(self.evaluate(batch))

    test_step = validation_step

    def on_validation_epoch_end(self) -> None:
        self._log("val", self.evaluation)

    def on_test_epoch_end(self) -> None:
        self._log("test", self.evaluation)

    def evaluate(self, batch: Batch) -> Terms:
        """Return `elbo`, `log_likelihood`, `kl` in nats and `mse` of each image (B,); a point has no ELBO, no KL.

        `elbo_terms` says what else is there: the KL of each dimension, and of each layer.
        """
        draw = self.vae.draw(batch)
        context = self.vae.context(batch)
        # the layers of a hierarchy may depend on samples of one another
        q = self.vae.encode(batch.input, context) if isinstance(draw.q, tuple) else draw.q
        mean = self.vae.reconstruct(q, context).mean
        return {**self.labelled(elbo_terms(draw)), "mse": squared_error(mean, batch.target)}

    def labelled(self, terms: Terms) -> Terms:
        """Return terms under the names that they are reported by."""
        return {name if name.startswith("kl") else name + self.ending: term for name, term in terms.items()}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.epoch = checkpoint["epoch"] + 1 if checkpoint["global_step"] else 0

    def _step(self, scheduler: Any) -> None:
        self.numbers["train/lr"] = scheduler.optimizer.param_groups[0]["lr"]  # of the epoch that has ended
        if not isinstance(scheduler, Plateau):
            scheduler.step()
        elif scheduler.monitor == "training":
            scheduler.step(self.numbers["train/loss"])
        else:
            names = [f"val/{name}{self.ending}" for name in ("elbo", "log_likelihood")]
            found = [self.numbers[name] for name in names if name in self.numbers]
            if found:  # none in an epoch without a validation
                scheduler.step(-found[0])

    def _log(self, stage: str, sums: Sums) -> None:
        means = sums.means(lambda total: self.trainer.strategy.reduce(total, reduce_op="sum"))
        if self.trainer.sanity_checking:
            return
        numbers = {f"{stage}/{name}": mean for name, mean in means.items() if not isinstance(mean, list)}
        wrong = [name.partition("/")[2] for name, mean in numbers.items() if not isfinite(mean)]
        if wrong:
            raise NonFiniteError(f"{stage}/{', '.join(wrong)} not finite after step {self.global_step}")
        self.numbers |= numbers
        self.vectors |= {f"{stage}/{name}": mean for name, mean in means.items() if isinstance(mean, list)}
        # for callbacks and the bar; the loggers get the row of an epoch as a whole
        self.log_dict(numbers, logger=False, prog_bar=stage == "val")

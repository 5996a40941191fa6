"""A LightningModule that trains any `BaseVAE` with any objective on any data."""

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

UNNORMALISED = "_unnormalised"  # suffix for metrics that do not come from a normalised density


class VAEModule(QuickHookName, LightningModule):
    """Trains a VAE and reports its ELBO, log-likelihood, KL and squared error during validation and testing.

    For any objective, validation and test metrics are computed at β = 1, with all constants included, from one sample
    of z per image. `mse` is the squared error of the image reconstructed from the posterior mean. With an unnormalised
    likelihood, such as the cross-entropy of greyscale values, all metrics except the KL, the squared error and the loss
    have the suffix `_unnormalised`.

    Args:
        vae: the model.
        objective: called with (vae, batch, step); returns the loss and the terms for each image (B,). An objective with
            weights, such as those of a discriminator, may define `optimizer_options` for them, such as `{"lr": 1e-4}`.
        optimizer: called with the parameters; returns an optimizer.
        scheduler: called with the optimizer; returns a learning-rate scheduler, which is stepped once per epoch. None
            keeps the learning rate constant.
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
        self.sums = Sums()  # over the current training epoch
        self.evaluation = Sums()  # over the current validation or test split
        self.terms: Terms = {}  # of the current step, to name those that are not finite
        self.numbers: dict[str, float] = {}  # metrics since the last logged row: train/loss, val/elbo, …
        self.vectors: dict[str, list[float]] = {}  # metrics with one value per latent dimension: val/kl_per_dimension
        self.epoch = 0  # number of epochs for which the weights have been trained

    @property
    def best_metric(self) -> str:
        """The validation metric that selects the best checkpoint."""
        if not self.vae.has_density:
            return "val/mse"
        return f"val/elbo{self.ending}"

    def trained(self) -> Iterable[Any]:
        """Return the parameters to train, with those of the objective in a second group if it has `optimizer_options`.

        All parameters share one optimizer, because Lightning supports only one with automatic optimization, which is
        required for gradient clipping, gradient accumulation and mixed precision.
        """
        options = getattr(self.objective, "optimizer_options", None)
        if not options:
            return self.parameters()
        if not isinstance(self.objective, torch.nn.Module):
            raise ValueError("an objective with `optimizer_options` must be a torch.nn.Module")
        return [{"params": self.vae.parameters()}, {"params": self.objective.parameters(), **options}]

    def configure_optimizers(self) -> OptimizerLRScheduler:
        optimizer = self.optimizer(self.trained())
        if self.scheduler is None:
            return optimizer
        scheduler = self.scheduler(optimizer)
        if isinstance(scheduler, ReduceLROnPlateau) and not isinstance(scheduler, Plateau):
            raise ValueError("ReduceLROnPlateau does not specify which loss to monitor; use scheduler=plateau")
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "reduce_on_plateau": False}}

    def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
        """Do nothing: `on_train_epoch_end` steps the scheduler once the metrics are known but before checkpointing."""

    def on_train_epoch_start(self) -> None:
        self.vectors = {}  # the callbacks have read those of the previous epoch

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        loss, terms = self.objective(self.vae, batch, self.global_step)
        self.terms = self.sums.add({"loss": loss.expand(len(batch.target)), **self.labelled(terms)})
        if batch_idx % 50 == 0 and self.trainer.progress_bar_callback is not None:
            self.log("loss", loss, prog_bar=True, logger=False)
        return loss

    def on_before_backward(self, loss: Tensor) -> None:
        """If the loss is not finite, raise an error before the weights change.

        Raises:
            NonFiniteError: if the loss is NaN or infinite.
        """
        if not isfinite(loss.item()):
            wrong = [name for name, term in self.terms.items() if term.dim() == 1 and not torch.isfinite(term).all()]
            raise NonFiniteError(
                f"{', '.join(wrong)}: not finite at step {self.global_step} (epoch {self.current_epoch + 1}); the "
                "weights are unchanged; try a smaller optimizer.lr or set trainer.gradient_clip_val"
            )

    def on_train_epoch_end(self) -> None:
        """Step the scheduler and log the training and validation metrics of the epoch as one row."""
        self._log("train", self.sums)
        self.epoch = self.current_epoch + 1
        if self.scheduler is not None:
            self._step(self.lr_schedulers())
        for logger in self.loggers:
            logger.log_metrics({"epoch": self.current_epoch + 1, **self.numbers}, step=self.global_step)
        self.numbers = {}  # an epoch without validation must not report the metrics of an earlier one

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self.evaluation.add(self.evaluate(batch))

    test_step = validation_step

    def on_validation_epoch_end(self) -> None:
        self._log("val", self.evaluation)

    def on_test_epoch_end(self) -> None:
        self._log("test", self.evaluation)

    def evaluate(self, batch: Batch) -> Terms:
        """Return `elbo`, `log_likelihood` and `kl` in nats, and `mse`, for each image (B,).

        A point posterior has no ELBO and no KL. `elbo_terms` adds the KL for each latent dimension and for
        each stochastic layer.
        """
        draw = self.vae.draw(batch)
        context = self.vae.context(batch)
        # in a hierarchical VAE, layers may depend on samples from other layers
        q = self.vae.encode(batch.input, context) if isinstance(draw.q, tuple) else draw.q
        mean = self.vae.reconstruct(q, context).mean
        return {**self.labelled(elbo_terms(draw)), "mse": squared_error(mean, batch.target)}

    def labelled(self, terms: Terms) -> Terms:
        """Return the terms, keyed by the names under which they are logged."""
        return {name if name.startswith("kl") else name + self.ending: term for name, term in terms.items()}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.epoch = checkpoint["epoch"] + 1 if checkpoint["global_step"] else 0

    def _step(self, scheduler: Any) -> None:
        self.numbers["train/lr"] = scheduler.optimizer.param_groups[0]["lr"]  # of the epoch just completed
        if not isinstance(scheduler, Plateau):
            scheduler.step()
        elif scheduler.monitor == "training":
            scheduler.step(self.numbers["train/loss"])
        else:
            names = [f"val/{name}{self.ending}" for name in ("elbo", "log_likelihood")]
            found = [self.numbers[name] for name in names if name in self.numbers]
            if found:  # empty in an epoch without validation
                scheduler.step(-found[0])

    def _log(self, stage: str, sums: Sums) -> None:
        means = sums.means(lambda total: self.trainer.strategy.reduce(total, reduce_op="sum"))
        if self.trainer.sanity_checking:
            return
        numbers = {f"{stage}/{name}": mean for name, mean in means.items() if not isinstance(mean, list)}
        wrong = [name.partition("/")[2] for name, mean in numbers.items() if not isfinite(mean)]
        if wrong:
            raise NonFiniteError(f"{stage}/{', '.join(wrong)}: not finite after step {self.global_step}")
        self.numbers |= numbers
        self.vectors |= {f"{stage}/{name}": mean for name, mean in means.items() if isinstance(mean, list)}
        # for callbacks and the progress bar; the loggers get one row per epoch
        self.log_dict(numbers, logger=False, prog_bar=stage == "val")

"""What other Lightning projects do, on a stand-in MLU: copied, beside accelerators/ alone, into an empty project.

../test_elsewhere.py runs it there.
"""

import sys
from pathlib import Path

import pytest
import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import BatchSizeFinder, LearningRateFinder, StochasticWeightAveraging
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import accelerators

MLU = torch.device("mlu", 0) if accelerators.MLUAccelerator.is_available() else None


def pictures(count: int = 64, batch_size: int = 16) -> DataLoader:
    """8 x 8 pictures of noise, bright in the left half (class 0) or in the right one (1)."""
    generator = torch.Generator().manual_seed(1)
    labels = torch.arange(count) % 2
    images = torch.randn(count, 1, 8, 8, generator=generator)
    for image, label in zip(images, labels, strict=True):
        image[:, :, 4 * label : 4 * label + 4] += 2
    return DataLoader(TensorDataset(images, labels), batch_size=batch_size)


class Classifier(LightningModule):
    def __init__(self, learning_rate: float = 0.05, batch_size: int = 16) -> None:
        super().__init__()
        self.save_hyperparameters()
        torch.manual_seed(0)
        self.net = nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(4), nn.Flatten(), nn.Linear(16, 2)
        )

    def training_step(self, batch, batch_idx):
        images, labels = batch
        loss = nn.functional.cross_entropy(self.net(images), labels)
        self.log("loss", loss, on_epoch=True)
        return loss

    def validation_step(self, batch, batch_idx):
        images, labels = batch
        assert images.device == self.device == self.trainer.strategy.root_device
        self.log("accuracy", (self.net(images).argmax(1) == labels).float().mean())

    def predict_step(self, batch, batch_idx, dataloader_idx=0):
        return batch[0].device, self.net(batch[0]).argmax(1)

    def train_dataloader(self):
        return pictures(batch_size=self.hparams.batch_size)

    def val_dataloader(self):
        return pictures(32)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=self.hparams.learning_rate, momentum=0.9)


def mlu_trainer(epochs: int = 1, precision: str | None = None, **flags) -> Trainer:
    chosen = accelerators.resolve_trainer_flags("mlu", devices=1, precision=precision)
    return Trainer(**{**QUIET, **chosen, "max_epochs": epochs, **flags})


QUIET = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}


def weights(module: nn.Module) -> torch.Tensor:
    return torch.cat([value.detach().cpu().flatten().float() for value in module.state_dict().values()])


def test_image_classification_learns_what_it_learns_on_the_cpu():
    trainer, model, on_cpu = mlu_trainer(3), Classifier(), Classifier()
    trainer.fit(model)
    Trainer(**QUIET, accelerator="cpu", max_epochs=3).fit(on_cpu)
    assert trainer.callback_metrics["accuracy"] > 0.9
    assert torch.equal(weights(model), weights(on_cpu))


class Adversarial(LightningModule):
    """Manual optimisation: two optimisers in turn, of a generator and of its judge."""

    automatic_optimization = False

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.generator, self.judge = nn.Linear(4, 64), nn.Linear(64, 1)
        self.scales: list[float] = []

    def training_step(self, batch, batch_idx):
        of_generator, of_judge = self.optimizers()
        real = batch[0].flatten(1)
        noise = torch.randn(len(real), 4, device=self.device)
        for optimizer, sign, shown in ((of_judge, 1, self.generator(noise).detach()), (of_generator, -1, None)):
            self.toggle_optimizer(optimizer)
            made = self.generator(noise) if shown is None else shown
            assert made.dtype == torch.float16
            loss = sign * (self.judge(made).float().mean() - self.judge(real).float().mean())
            optimizer.zero_grad()
            self.manual_backward(loss)
            optimizer.step()
            self.untoggle_optimizer(optimizer)

    def configure_optimizers(self):
        return [torch.optim.SGD(part.parameters(), lr=0.01) for part in (self.generator, self.judge)]


def test_manual_optimisation_in_mixed_precision_moves_both_parts():
    model = Adversarial()
    before = [weights(part) for part in (model.generator, model.judge)]
    mlu_trainer(precision="16-mixed").fit(model, pictures())
    for part, old in zip((model.generator, model.judge), before, strict=True):
        assert torch.isfinite(weights(part)).all() and not torch.equal(weights(part), old)


def test_predict_with_several_loaders_keeps_them_apart():
    first, second = mlu_trainer().predict(Classifier(), [pictures(48), pictures(16)])
    assert [len(first), len(second)] == [3, 1]
    assert {device for device, _ in first + second} == {MLU}


def test_learning_rate_finder_suggests_a_rate_and_gives_the_weights_back(tmp_path):
    class Starts(Classifier):
        def on_train_start(self):
            self.started = weights(self)  # of the search first, then of the training

    model = Starts(learning_rate=1e-9, batch_size=2)
    finder = LearningRateFinder(num_training_steps=30, early_stop_threshold=None)
    mlu_trainer(callbacks=[finder], enable_checkpointing=True, default_root_dir=tmp_path).fit(model)
    assert model.hparams.learning_rate == finder.optimal_lr.suggestion() > 1e-7
    assert torch.equal(model.started, weights(Classifier()))


def test_stochastic_weight_averaging_averages_as_on_the_cpu():
    averaged = []
    for trainer in (mlu_trainer, lambda *args, **flags: Trainer(**QUIET, accelerator="cpu", max_epochs=4, **flags)):
        model = Classifier()
        trainer(4, callbacks=[StochasticWeightAveraging(swa_lrs=0.01, swa_epoch_start=2)]).fit(model)
        averaged.append(weights(model))
    plain = Classifier()
    mlu_trainer(4).fit(plain)
    assert torch.equal(*averaged) and not torch.equal(averaged[0], weights(plain))


def test_batch_size_finder_stops_below_what_does_not_fit(tmp_path):
    class Large(Classifier):
        def training_step(self, batch, batch_idx):
            if len(batch[0]) > 16:
                torch.empty(2**40, dtype=torch.uint8, device=self.device)  # more than the card has
            return super().training_step(batch, batch_idx)

    model = Large(batch_size=2)
    finder = BatchSizeFinder(steps_per_trial=1, init_val=2)
    mlu_trainer(callbacks=[finder], enable_checkpointing=True, default_root_dir=tmp_path).fit(model)
    assert model.hparams.batch_size == finder.optimal_batch_size == 16


@pytest.fixture(scope="session", autouse=True)
def alone():
    """The folder came from here, and took nothing else of its project with it."""
    yield
    here = Path(__file__).parent
    assert Path(accelerators.__file__).parent == here / "accelerators"
    project = Path((here / "project.txt").read_text())
    files = (Path(file) for module in list(sys.modules.values()) if (file := getattr(module, "__file__", None)))
    assert [f for f in files if project in f.parents and not {".venv", "standin"} & {*f.parts}] == []

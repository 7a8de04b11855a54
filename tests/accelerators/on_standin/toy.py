"""A model of forty parameters with dropout, its data, and a quiet Trainer."""

from typing import Any

import torch
from pytorch_lightning import LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

QUIET = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}


class Toy(LightningModule):
    def __init__(self, dropout: float = 0.0, sync_dist: bool = False) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.save_hyperparameters()
        self.model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(dropout), nn.Linear(8, 1))
        self.seen: dict[str, Any] = {}

    def loss(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        inputs, targets = batch
        outputs = self.model(inputs)
        self.seen.update(dtype=outputs.dtype, device=inputs.device, own_device=self.device)
        return (outputs.float() - targets).square().mean()

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = self.loss(batch)
        self.log("loss", loss, sync_dist=self.hparams.sync_dist)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("validation", self.loss(batch), sync_dist=self.hparams.sync_dist)

    def predict_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self.model(batch[0])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)


def loader(samples: int = 32, batch_size: int = 8) -> DataLoader:
    generator = torch.Generator().manual_seed(11)
    inputs = torch.randn(samples, 4, generator=generator)
    return DataLoader(TensorDataset(inputs, inputs.sum(1, keepdim=True)), batch_size=batch_size)


def trainer(**flags: Any) -> Trainer:
    return Trainer(**{**QUIET, "max_epochs": 1, "num_sanity_val_steps": 0, **flags})


def weights(module: nn.Module) -> Tensor:
    return torch.cat([value.detach().cpu().flatten().float() for value in module.state_dict().values()])

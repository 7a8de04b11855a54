"""The model of the checks: a small network that has every kind of layer, its data, and the flags of its Trainer."""

from datetime import timedelta
from typing import Any

import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.strategies import DDPStrategy
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from .. import MLUDDPStrategy, resolve_trainer_flags

QUIET: dict[str, Any] = {
    "logger": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "enable_checkpointing": False,
    "num_sanity_val_steps": 0,
}


class Tiny(LightningModule):
    """Convolutions, normalisation, pooling, attention, embedding. Without `batch_norm` no sample sees another."""

    def __init__(self, batch_norm: bool = True) -> None:
        super().__init__()
        norm = nn.BatchNorm2d(8) if batch_norm else nn.GroupNorm(2, 8)
        self.picture = nn.Sequential(
            nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False), norm, nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 8, 1)
        )
        self.token = nn.Embedding(5, 8)
        self.attention = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, activation="gelu", batch_first=True)
        self.head = nn.Linear(8, 5)
        self.losses: list[Tensor] = []

    def forward(self, pictures: Tensor, tokens: Tensor) -> Tensor:
        """[B, 3, 16, 16] and int64 [B] -> [B, 5]"""
        cells = self.picture(pictures).flatten(2).transpose(1, 2)
        return self.head(self.attention(cells + self.token(tokens).unsqueeze(1)).mean(1))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        pictures, tokens, labels = batch
        loss = nn.functional.cross_entropy(self(pictures, tokens).float(), labels)
        self.losses.append(loss.detach())
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=3e-3)


def tiny(batch_norm: bool = True) -> Tiny:
    """The same weights each time."""
    torch.manual_seed(0)
    return Tiny(batch_norm)


def tiny_data(samples: int, batch_size: int) -> DataLoader:
    """Pictures whose brightest of five columns is the label."""
    generator = torch.Generator().manual_seed(1)
    labels = torch.randint(5, (samples,), generator=generator)
    pictures = torch.randn(samples, 3, 16, 16, generator=generator)
    for picture, label in zip(pictures, labels, strict=True):
        picture[:, :, 3 * int(label) : 3 * int(label) + 4] += 1.5
    tokens = torch.randint(5, (samples,), generator=generator)
    return DataLoader(TensorDataset(pictures, tokens, labels), batch_size=batch_size)


def trainer(accelerator: str, devices: int = 1, precision: str | None = None, **flags: Any) -> Trainer:
    """A quiet one. Several devices wait for a lost one a minute, not half an hour."""
    strategy: Any = "auto"
    if devices > 1 or flags.get("num_nodes", 1) > 1:
        kind = MLUDDPStrategy if accelerator == "mlu" else DDPStrategy
        strategy = kind(timeout=timedelta(minutes=1))
    chosen = resolve_trainer_flags(accelerator, devices, flags.pop("num_nodes", 1), strategy, precision)
    return Trainer(**{**QUIET, **chosen, "max_epochs": 1, **flags})


def weights(module: nn.Module) -> Tensor:
    """All that a state dict has, one after the other, float32 on the CPU."""
    return torch.cat([value.detach().cpu().flatten().float() for value in module.state_dict().values()])

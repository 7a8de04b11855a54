"""Cambricon MLUs for PyTorch Lightning: importing this package registers accelerator "mlu" and its strategies.

    import accelerators
    Trainer(accelerator="mlu", devices=8, strategy="mlu_ddp", plugins=[accelerators.MLUMixedPrecision("16-mixed")])

torch_mlu is imported when an MLU is asked for, not here. Lightning has no entry point for accelerators, so import this
before a Trainer is made. It needs the namespace `pytorch_lightning`; the classes of `lightning` are others.
"""

from pytorch_lightning.accelerators import AcceleratorRegistry
from pytorch_lightning.strategies import StrategyRegistry

from .flags import resolve_trainer_flags
from .mlu import MLUAccelerator
from .precision import MLUMixedPrecision
from .strategies import MLUDDPStrategy, SingleMLUStrategy

__all__ = [
    "MLUAccelerator",
    "MLUDDPStrategy",
    "MLUMixedPrecision",
    "SingleMLUStrategy",
    "resolve_trainer_flags",
]
__version__ = "0.1.0"  # of this folder, which other projects copy

if MLUAccelerator.name() not in AcceleratorRegistry:
    MLUAccelerator.register_accelerators(AcceleratorRegistry)
for _strategy in (SingleMLUStrategy, MLUDDPStrategy):
    if _strategy.strategy_name not in StrategyRegistry:
        _strategy.register_strategies(StrategyRegistry)

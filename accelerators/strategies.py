"""SingleMLUStrategy for one MLU, MLUDDPStrategy for several and for several nodes."""

import os
from collections.abc import Callable
from datetime import timedelta
from typing import Any, Literal

import torch
import torch.distributed as dist
from lightning_fabric.plugins.collectives.torch_collective import default_pg_timeout
from lightning_fabric.utilities.seed import reset_seed
from pytorch_lightning.strategies import DDPStrategy, SingleDeviceStrategy
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from torch import Tensor
from torch.distributed.algorithms.ddp_comm_hooks.post_localSGD_hook import PostLocalSGDState
from torch.nn import Module
from torch.nn.parallel import DistributedDataParallel
from typing_extensions import override

from . import backend, process_group, rng
from .comm_hooks import prepare_comm_hook
from .strategy_base import MLUStrategy
from .sync_batchnorm import refuse_without_kernels

CPU_OR_CUDA_BACKENDS = ("gloo", "nccl", "mpi", "ucc")


class SingleMLUStrategy(MLUStrategy, SingleDeviceStrategy):
    """One process on one MLU.

    Args:
        device: "mlu:1", 1 or a torch.device. By default the one that ``Trainer(devices=[1])`` names, else ``mlu:0``;
            the stock SingleDeviceStrategy would pass over `devices`.
    """

    strategy_name = "mlu_single"

    def __init__(self, device: str | int | torch.device | None = None, **kwargs: Any) -> None:
        super().__init__(device="cpu", **kwargs)  # the base's own device is not used: see root_device
        self._ordinal = None if device is None else _ordinal_of(device)

    @property
    @override
    def root_device(self) -> torch.device:
        return torch.device("mlu", self._ordinal or 0)  # with its index: `module.device` then equals its parameters'

    @property
    def parallel_devices(self) -> list[torch.device] | None:
        """The device if one was chosen; the Trainer sets it from `devices` otherwise."""
        return None if self._ordinal is None else [self.root_device]

    @parallel_devices.setter
    def parallel_devices(self, devices: list[torch.device]) -> None:
        if len(devices) != 1:
            raise MisconfigurationException(
                f"SingleMLUStrategy runs on one MLU, but devices= names {len(devices)}. Write strategy='mlu_ddp' or "
                "strategy=MLUDDPStrategy() (from accelerators import MLUDDPStrategy) for several."
            )
        self._ordinal = devices[0].index

    @override
    def setup_environment(self) -> None:
        world_size = int(os.environ.get("WORLD_SIZE", "1"))
        if dist.is_torchelastic_launched() and world_size > 1:
            raise MisconfigurationException(
                f"torchrun started {world_size} processes, but SingleMLUStrategy is for one: each would train on its "
                "own on the same MLU. Write strategy='mlu_ddp' with devices= the processes per node, or start one "
                "process."
            )
        super().setup_environment()

    @property
    def num_nodes(self) -> int:
        return 1

    @num_nodes.setter
    def num_nodes(self, num_nodes: int) -> None:
        if num_nodes != 1:
            raise MisconfigurationException(
                f"SingleMLUStrategy runs in one process, but num_nodes={num_nodes}: every node would train on its own. "
                "Write strategy='mlu_ddp' or strategy=MLUDDPStrategy() (from accelerators import MLUDDPStrategy)."
            )

    @classmethod
    @override
    def register_strategies(cls, strategy_registry: Any) -> None:
        strategy_registry.register(cls.strategy_name, cls, description="One MLU")


class MLUDDPStrategy(MLUStrategy, DDPStrategy):
    """One process per MLU with DistributedDataParallel over CNCL, on one node or several.

    Differs from Lightning's DDPStrategy where that assumes CUDA: no CUDA stream around the wrapping, averages as sum /
    world size (CNCL has no ReduceOp.AVG), no `device_id` for the process group (torch 2.4 takes CUDA's only), a
    barrier on this process's own device, communication hooks that run, and a process group that is destroyed at exit.

    Args:
        process_group_backend: "cncl", or "cpu:gloo,mlu:cncl" to have collectives on CPU tensors too.
        start_method: "popen" (scripts), or "spawn" (the function runs under `if __name__ == "__main__"`). An
            initialised MLU does not survive a fork. Under torchrun or SLURM it is not used: they start the processes.
        **kwargs: What DistributedDataParallel takes, e.g. ``find_unused_parameters=True``, ``bucket_cap_mb=50``.
    """

    strategy_name = "mlu_ddp"

    def __init__(
        self,
        accelerator: Any | None = None,
        parallel_devices: list[torch.device] | None = None,
        cluster_environment: Any | None = None,
        checkpoint_io: Any | None = None,
        precision_plugin: Any | None = None,
        ddp_comm_state: object | None = None,
        ddp_comm_hook: Callable | None = None,
        ddp_comm_wrapper: Callable | None = None,
        model_averaging_period: int | None = None,
        process_group_backend: str = "cncl",
        timeout: timedelta | None = default_pg_timeout,
        start_method: Literal["popen", "spawn"] = "popen",
        **kwargs: Any,
    ) -> None:
        if start_method not in ("popen", "spawn"):
            raise MisconfigurationException(
                f"MLUDDPStrategy starts processes by 'popen' or 'spawn', but got start_method={start_method!r}: an "
                "initialised MLU does not survive a fork. In a notebook use one MLU (devices=1), or run a script."
            )
        if process_group_backend in CPU_OR_CUDA_BACKENDS:
            raise MisconfigurationException(
                f"process_group_backend={process_group_backend!r} does not reduce MLU tensors. Leave it out ('cncl'), "
                "or write 'cpu:gloo,mlu:cncl' for collectives on CPU tensors as well."
            )
        if model_averaging_period is not None or isinstance(ddp_comm_state, PostLocalSGDState):
            raise MisconfigurationException(
                "Model averaging (model_averaging_period, PostLocalSGDState) is not supported on MLUs: older PyTorch "
                "synchronises CUDA alone before it. Use gradient accumulation, "
                "Trainer(accumulate_grad_batches=...)."
            )
        super().__init__(
            accelerator=accelerator,
            parallel_devices=parallel_devices,
            cluster_environment=cluster_environment,
            checkpoint_io=checkpoint_io,
            precision_plugin=precision_plugin,
            ddp_comm_state=ddp_comm_state,
            ddp_comm_hook=ddp_comm_hook,
            ddp_comm_wrapper=ddp_comm_wrapper,
            process_group_backend=process_group_backend,
            timeout=timeout,
            start_method=start_method,
            **kwargs,
        )
        self._rng_of_parent: dict[int, bytes] = {}

    @override
    def setup_distributed(self) -> None:
        if state := self._rng_of_parent.pop(self.local_rank, None):
            rng.set_state(torch.frombuffer(bytearray(state), dtype=torch.uint8), self.root_device)
        reset_seed()
        self.set_world_ranks()
        process_group.join(self.cluster_environment, self.process_group_backend, self.root_device, self._timeout)

    @override
    def wait_for_all(self) -> None:
        process_group.wait_for_all(self.root_device)

    @override
    def model_to_device(self) -> None:
        refuse_without_kernels(self.model, self.root_device)
        super().model_to_device()

    @override
    def _setup_model(self, model: Module) -> DistributedDataParallel:
        # in the current stream: a side stream would only make autograd warn of gradients accumulated on another
        return DistributedDataParallel(model, device_ids=self.determine_ddp_device_ids(), **self._ddp_kwargs)

    @override
    def _register_ddp_hooks(self) -> None:
        if self._ddp_comm_hook is not None:
            hook = prepare_comm_hook(self._ddp_comm_hook, self._ddp_comm_wrapper)
            self.model.register_comm_hook(state=self._ddp_comm_state, hook=hook)

    @override
    def reduce(self, tensor: Tensor | Any, group: Any | None = None, reduce_op: Any = "mean") -> Tensor | Any:
        """All-reduce in place; "mean" and "avg" are a sum divided by the group's size."""
        if not isinstance(tensor, Tensor) or not dist.is_initialized():
            return tensor
        average = str(reduce_op).lower() in ("mean", "avg") or reduce_op == dist.ReduceOp.AVG
        if average or reduce_op is None:
            reduce_op = dist.ReduceOp.SUM
        elif isinstance(reduce_op, str):
            reduce_op = getattr(dist.ReduceOp, reduce_op.upper())
        dist.all_reduce(tensor, op=reduce_op, group=group)
        if average:
            tensor.copy_(tensor / dist.get_world_size(group))
        return tensor

    @override
    def on_exception(self, exception: BaseException) -> None:
        super().on_exception(exception)  # may advise a stock strategy; ours have the same names with mlu_ in front
        if exception.args and isinstance(exception.args[0], str):
            text = exception.args[0].replace("'ddp_find_unused", "'mlu_ddp_find_unused").replace("=DDPS", "=MLUDDPS")
            exception.args = (text, *exception.args[1:])

    def __getstate__(self) -> dict[str, Any]:
        state = super().__getstate__()
        if self._start_method == "spawn" and self.parallel_devices and backend.is_available():
            # bytes: a tensor would be sent as a file descriptor, closed with the tensor before the process starts
            states = [rng.get_state(device).numpy().tobytes() for device in self.parallel_devices]
            state["_rng_of_parent"] = dict(enumerate(states))
        return state

    @classmethod
    @override
    def register_strategies(cls, strategy_registry: Any) -> None:
        for suffix, start_method in (("", "popen"), ("_spawn", "spawn")):
            name = cls.strategy_name + suffix
            about = f"One process per MLU, started by {start_method}"
            strategy_registry.register(name, cls, description=about, start_method=start_method)
            for unused in (True, False):
                strategy_registry.register(
                    f"{name}_find_unused_parameters_{str(unused).lower()}",
                    cls,
                    description=f"{about}, find_unused_parameters={unused}",
                    find_unused_parameters=unused,
                    start_method=start_method,
                )


def _ordinal_of(device: str | int | torch.device) -> int | None:
    """The index in "mlu:1", 1 or a torch.device; None for "mlu"."""
    if isinstance(device, int):
        return device
    backend.require()
    device = torch.device(device)
    if device.type != "mlu":
        raise MisconfigurationException(f"SingleMLUStrategy(device={str(device)!r}): expected an MLU, as 'mlu:0' or 0.")
    return device.index

"""A user's script on two MLUs: trains, and writes what each rank saw to OUT/rank<r>.json.

python two_mlus.py OUT [spawn]      torchrun --nnodes 2 --nproc_per_node 1 two_mlus.py OUT nodes
"""

import atexit
import hashlib
import json
import os
import signal
import sys
import warnings
from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks
from toy import Toy, loader, trainer, weights

from accelerators import MLUAccelerator, MLUDDPStrategy, MLUMixedPrecision
from accelerators.rng import CHECKPOINT_KEY

OUT, HOW = Path(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else "popen"


class Facts(Toy):
    """Collects facts of its rank and writes them when training ends."""

    def on_train_start(self) -> None:
        rank = self.global_rank
        strategy = self.trainer.strategy
        ones = torch.tensor([rank + 1.0], device=self.device)
        self.facts = {
            "device": str(self.device),
            "world_size": self.trainer.world_size,
            "mean": strategy.reduce(ones.clone()).item(),
            "mean_of_integers": strategy.reduce(ones.long() * 10).item(),
            "average_operator": strategy.reduce(ones.clone(), reduce_op=dist.ReduceOp.AVG).item(),
            "sum": strategy.reduce(ones.clone(), reduce_op="sum").item(),
            "largest": strategy.reduce(ones.clone(), reduce_op=dist.ReduceOp.MAX).item(),
            "not_a_tensor": strategy.reduce("text"),
            "all": strategy.reduce_boolean_decision(rank == 0),
            "any": strategy.reduce_boolean_decision(rank == 0, all=False),
            "gathered": self.all_gather(ones).flatten().tolist(),
            "broadcast": strategy.broadcast({"from": rank}),
            "backend": dist.get_backend(),
            "random_state": digest(torch.mlu.get_rng_state(self.device)),
        }

    def training_step(self, batch, batch_idx):
        self.log("rank_plus_one", float(self.global_rank + 1), sync_dist=True)
        return super().training_step(batch, batch_idx)

    def on_train_end(self) -> None:
        self.facts["weights"] = weights(self.trainer.strategy.lightning_module.model).tolist()
        self.facts["logged"] = self.trainer.callback_metrics["rank_plus_one"].item()
        write(self.global_rank, self.facts)


def digest(state: torch.Tensor) -> str:
    return hashlib.sha256(state.numpy().tobytes()).hexdigest()


def write(rank: int, facts: dict) -> None:
    path = OUT / f"rank{rank}.json"
    known = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**known, **facts}))


def fit(model, strategy, **flags):
    devices = {"nodes": 1}.get(HOW, [1, 0])
    run = trainer(accelerator="mlu", devices=devices, num_nodes=2 if HOW == "nodes" else 1, strategy=strategy, **flags)
    run.fit(model, loader(), loader())
    return run


def hooked(hook) -> int:
    """Train with a communication hook; how often it was called."""
    calls = []

    def counted(state: object, bucket: dist.GradBucket) -> torch.futures.Future[torch.Tensor]:
        calls.append(bucket.index())
        return hook(state, bucket)

    fit(Toy(), MLUDDPStrategy(ddp_comm_hook=counted), limit_train_batches=2)
    return len(calls)


def resumed_state(rank: int) -> dict:
    """Save with a random state of each rank's own, resume, and compare."""

    class Saves(Toy):
        def on_train_end(self):
            torch.mlu.manual_seed(100 + self.global_rank)
            self.saved = torch.mlu.get_rng_state(self.device)
            self.trainer.save_checkpoint(OUT / "two.ckpt")

    class Resumes(Toy):
        def on_train_start(self):
            self.found = torch.mlu.get_rng_state(self.device)

    first, second = Saves(), Resumes()
    fit(first, MLUDDPStrategy())
    run = trainer(accelerator="mlu", devices=[1, 0], strategy=MLUDDPStrategy(), max_epochs=2)
    run.fit(second, loader(), ckpt_path=OUT / "two.ckpt", weights_only=True)
    states = torch.load(OUT / "two.ckpt", weights_only=True)[CHECKPOINT_KEY]
    return {
        "states_in_checkpoint": len(states),
        "states_differ": not torch.equal(*states),
        "own_state_restored": torch.equal(first.saved, second.found),
    }


def batch_statistics(**flags) -> list[float]:
    """The running mean of this rank alone after a step: DDP does not send rank 0's around."""
    model = Toy()
    fit(model, MLUDDPStrategy(broadcast_buffers=False), limit_train_batches=1, **flags)
    return model.model[1].running_mean.tolist()


def bf16_hook_runs() -> bool:
    model = Toy()
    fit(model, MLUDDPStrategy(ddp_comm_hook=default_hooks.bf16_compress_hook), limit_train_batches=1)
    return bool(torch.isfinite(weights(model)).all())


def broadcasts_of_lightnings_own() -> list[str]:
    """The dtypes that Lightning's training loop broadcasts itself in three batches."""
    dtypes, broadcast = [], dist.broadcast

    def counted(tensor: torch.Tensor, *args: object, **kwargs: object) -> object:
        dtypes.append(str(tensor.dtype))
        return broadcast(tensor, *args, **kwargs)

    class Watched(Toy):
        def on_train_start(self):
            dist.broadcast = counted

        def on_train_end(self):
            dist.broadcast = broadcast

    run = trainer(accelerator="mlu", devices=[1, 0], strategy=MLUDDPStrategy(), limit_train_batches=2)
    run.fit(Watched(), loader())
    return dtypes


def ended_by_sigterm() -> str:
    """Every rank gets a SIGTERM within the same step, as a scheduler sends it."""

    class Stopped(Toy):
        def training_step(self, batch, batch_idx):
            if batch_idx == 1:
                os.kill(os.getpid(), signal.SIGTERM)
            return super().training_step(batch, batch_idx)

    try:
        fit(Stopped(), MLUDDPStrategy(), max_epochs=50)
    except BaseException as error:
        return type(error).__name__
    return "it ran to the end"


def after_exit() -> None:
    write(int(os.environ.get("RANK", os.environ.get("LOCAL_RANK", 0))), {"group_at_exit": dist.is_initialized()})


def main() -> None:
    atexit.register(after_exit)  # handlers run last in, first out: after the strategy's
    model = Facts(sync_dist=True)
    strategy = MLUDDPStrategy(start_method="spawn" if HOW == "spawn" else "popen")
    if HOW == "spawn":
        MLUAccelerator()  # imports torch_mlu
        states = []
        for device in ("mlu:1", "mlu:0"):  # the devices of ranks 0 and 1
            torch.rand(5, device=device)
            states.append(digest(torch.mlu.get_rng_state(device)))
        (OUT / "parent.json").write_text(json.dumps(states))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run = fit(model, strategy, num_sanity_val_steps=2)
    if HOW != "popen":
        return
    rank = dist.get_rank()
    (metrics,) = run.validate(model, loader(), verbose=False)
    write(rank, {"validated": metrics["validation"], "predicted": len(run.predict(model, loader()))})
    write(rank, {"warnings": [str(warning.message) for warning in caught]})
    write(
        rank,
        {
            "hook_calls": hooked(default_hooks.allreduce_hook),
            "fp16_hook_calls": hooked(default_hooks.fp16_compress_hook),
        },
    )
    write(rank, {"bf16_hook_runs": bf16_hook_runs()})
    model = Toy()
    fit(model, MLUDDPStrategy(find_unused_parameters=True), plugins=[MLUMixedPrecision()], accumulate_grad_batches=2)
    write(rank, {"fp16_weights": weights(model).tolist(), "fp16_dtype": str(model.seen["dtype"])})
    write(rank, resumed_state(rank))
    write(rank, {"loop_broadcasts": broadcasts_of_lightnings_own()})
    write(rank, {"own_statistics": batch_statistics(), "synced_statistics": batch_statistics(sync_batchnorm=True)})
    write(rank, {"sigterm": ended_by_sigterm()})


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()

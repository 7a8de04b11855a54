"""One of two ranks of cases_processes.py: tries collectives and data-parallel training, writes its findings as JSON."""

import json
import sys

import torch
import torch.distributed as dist
import torch_mlu  # noqa: F401  registers the device and cncl
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import fp16_compress_hook
from torch.nn.parallel import DistributedDataParallel

FORMS = (
    "plain", "find_unused_parameters", "static_graph", "gradient_as_bucket_view", "fp16_compress_hook", "sync_bn",
)  # fmt: skip


class Net(torch.nn.Module):
    def __init__(self, with_unused: bool = False):
        super().__init__()
        self.hidden, self.norm, self.out = torch.nn.Linear(4, 8), torch.nn.BatchNorm1d(8), torch.nn.Linear(8, 2)
        self.unused = torch.nn.Linear(2, 2) if with_unused else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.norm(self.hidden(x)).relu())


def collectives(rank: int, device: torch.device) -> dict:
    def full(value: float, size: int = 1) -> torch.Tensor:
        return torch.full((size,), float(value), device=device)

    found = {}
    tensor = full(rank + 1, 2)
    dist.all_reduce(tensor)
    found["all_reduce"] = tensor
    dist.all_reduce(greatest := full(rank), op=dist.ReduceOp.MAX)
    found["all_reduce_max"] = greatest
    dist.broadcast(sent := full(rank + 1), src=1)
    found["broadcast"] = sent
    dist.reduce(total := full(rank + 1), dst=0)
    found["reduce"] = total if rank == 0 else None
    dist.all_gather(gathered := [full(-1), full(-1)], full(rank))
    found["all_gather"] = gathered
    dist.all_gather_into_tensor(flat := full(-1, 2), full(rank))
    found["all_gather_into_tensor"] = flat
    dist.reduce_scatter(part := full(-1), list(torch.arange(2.0, device=device).chunk(2)))
    found["reduce_scatter"] = part
    dist.reduce_scatter_tensor(part := full(-1), torch.arange(2.0, device=device))
    found["reduce_scatter_tensor"] = part
    dist.scatter(part := full(-1), [full(5), full(6)] if rank == 0 else None, src=0)
    found["scatter"] = part
    dist.gather(full(rank), gathered := [full(-1), full(-1)] if rank == 0 else None, dst=0)
    found["gather"] = gathered
    dist.all_to_all_single(swapped := full(-1, 2), torch.arange(2.0, device=device) + 10 * rank)
    found["all_to_all_single"] = swapped
    requests = [dist.P2POp(dist.isend, full(7), 1 - rank), dist.P2POp(dist.irecv, received := full(-1), 1 - rank)]
    for request in dist.batch_isend_irecv(requests):
        request.wait()
    found["receive"] = received
    work = dist.all_reduce(tensor := full(1), async_op=True)
    work.wait()
    found["asynchronous"], found["future"] = tensor, work.get_future().value()
    dist.barrier(device_ids=[rank])
    return json.loads(json.dumps(found, default=torch.Tensor.tolist))


def objects(rank: int) -> dict:
    gathered: list = [None, None]
    dist.all_gather_object(gathered, {"rank": rank})
    dist.broadcast_object_list(sent := [f"rank {rank}"], src=1)
    return {"all_gather_object": gathered, "broadcast_object_list": sent}


def errors(device: torch.device) -> dict[str, str]:
    tensor, average = torch.ones(2, device=device), dist.ReduceOp.AVG
    cncl = dist.distributed_c10d._get_default_group()._get_backend(device)
    attempts = {
        "average": lambda: dist.all_reduce(tensor, op=average),
        "average reduce_scatter": lambda: dist.reduce_scatter_tensor(tensor[:1], tensor, op=average),
        "cpu tensor": lambda: dist.all_reduce(torch.ones(2)),
        "cpu tensor, backend": lambda: cncl.allreduce([torch.ones(2)]),
    }
    found = {}
    for name, attempt in attempts.items():
        try:
            attempt()
        except RuntimeError as error:
            found[name] = str(error)
    return found


def data_parallel(rank: int, device: torch.device, form: str) -> dict:
    torch.manual_seed(rank)  # the ranks start apart: making the wrapper brings them together
    net = Net(with_unused=form == "find_unused_parameters").to(device)
    if form == "sync_bn":
        net = torch.nn.SyncBatchNorm.convert_sync_batchnorm(net)
    switches = {form: True} if form not in ("plain", "fp16_compress_hook", "sync_bn") else {}
    wrapped = DistributedDataParallel(net, device_ids=[rank], **switches)
    if form == "fp16_compress_hook":
        wrapped.register_comm_hook(None, fp16_compress_hook)
    before = torch.nn.utils.parameters_to_vector(net.parameters()).detach().clone()
    optimizer = torch.optim.SGD(wrapped.parameters(), lr=0.1, momentum=0.9)
    for step in range(3):
        optimizer.zero_grad()
        x = torch.randn(5, 4, generator=torch.Generator().manual_seed(10 * step + rank))
        wrapped(x.to(device)).square().sum().backward()
        optimizer.step()
    after = torch.nn.utils.parameters_to_vector(net.parameters()).detach()
    return {
        "weights": after.tolist(),
        "moved": not torch.equal(before, after),
        "gradients are views": net.hidden.weight.grad._is_view(),
    }


def sync_bn_equals_one_process(rank: int, device: torch.device) -> bool:
    """Normalising two half batches together is normalising the batch; so are the running statistics and gradients."""
    torch.manual_seed(0)
    x = torch.randn(6, 3, 4, 4).to(device)
    alone, together = (torch.nn.BatchNorm2d(3).to(device) for _ in range(2))
    together = DistributedDataParallel(torch.nn.SyncBatchNorm.convert_sync_batchnorm(together), device_ids=[rank])
    part, whole = x.chunk(2)[rank].clone().requires_grad_(), x.clone().requires_grad_()
    expected, out = alone(whole), together(part)
    expected.pow(3).sum().backward()
    out.pow(3).sum().backward()
    pairs = [
        (out, expected.chunk(2)[rank]),
        (part.grad, whole.grad.chunk(2)[rank]),
        (together.module.weight.grad * 2, alone.weight.grad),  # the wrapper averages over the ranks
        (together.module.running_mean, alone.running_mean),
        (together.module.running_var, alone.running_var),
    ]
    return all(torch.allclose(mine, right, atol=1e-4) for mine, right in pairs)


def ddp_equals_one_process(rank: int, device: torch.device) -> bool:
    """The gradient of two ranks' mean losses is that of the mean over both batches; no batch norm, which differs."""
    torch.manual_seed(0)
    net = torch.nn.Linear(4, 2).to(device)
    x = torch.randn(6, 4).to(device)
    (expected,) = torch.autograd.grad(net(x).square().mean(), [net.weight])
    wrapped = DistributedDataParallel(net, device_ids=[rank])  # kept: its reducer goes with it
    wrapped(x.chunk(2)[rank]).square().mean().backward()
    return torch.allclose(net.weight.grad, expected, atol=1e-6)


def main(output: str) -> None:
    dist.init_process_group("cncl")
    rank = dist.get_rank()
    torch.mlu.set_device(rank)
    device = torch.device("mlu", rank)
    found = {
        "backend": dist.get_backend(),
        "collectives": collectives(rank, device),
        "objects": objects(rank),
        "errors": errors(device),
        "ddp": {form: data_parallel(rank, device, form) for form in FORMS},
        "sync_bn equals one process": sync_bn_equals_one_process(rank, device),
        "ddp equals one process": ddp_equals_one_process(rank, device),
    }
    with open(output, "w") as file:
        json.dump(found, file)
    dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1])

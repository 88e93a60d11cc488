"""Training in several processes (ranks): who encodes what, and how all of them stay the same.

Every rank holds the whole model and the same objective, and takes the same steps. In a step, rank
r of R encodes the items r, r + R, ... of the batch; the trunks' outputs are gathered with their
graph, and from there on each rank computes necks, heads and the loss of the WHOLE batch, remembers
its outputs, and draws the same dropout. So losses over pairs, triplets, games and memories mean
what they mean in one process, and no objective knows about ranks. After `backward`, gradients are
averaged. The gather hands each rank's own items R times their gradient: the mean over the ranks
is then the sum of their parts in a trunk, and the very gradient in what all ranks compute alike.

Against one process with the same batch there remain: the order of floating-point sums; dropout
inside trunks, whose draws differ by rank; and BatchNorm inside trunks, which normalizes by the
rank's share (its running statistics are averaged over the ranks after every step).
"""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed, nn

from hamward.errors import ConfigError, TrainingError
from hamward.models import HashModel
from hamward.process import placed
from hamward.random import seeded

__all__ = ["ALONE", "Ranks", "joined", "running_statistics"]

T = TypeVar("T")
_BUCKET = 1 << 23  # numbers that travel together: 32 MB of float32


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranks:
    """The processes of one training, as one of them sees them.

    Attributes:
        rank: Which one this is, from 0.
        size: How many there are.
    """

    rank: int = 0
    size: int = 1

    def share(self, x: Tensor) -> Tensor:
        """Return the rows of a batch that are this rank's: r, r + R, ..."""
        return x[self.rank :: self.size]

    def gather(self, own: Tensor) -> Tensor:
        """Return the batch whose `share` each rank gives, in order; gradients go back to it.

        Shares must be equally long.
        """
        if self.size == 1:
            return own
        gathered: Tensor = _Gather.apply(own, self)  # type: ignore[no-untyped-call]
        return gathered

    def first(self, call: Callable[[], T]) -> T:
        """Return what `call` returns on rank 0; the others wait for it.

        Raises:
            TrainingError: on the others, if it fails on rank 0, which raises its own error.
        """
        if self.size == 1:
            return call()
        parcel: list[Any] = [None, None]
        if self.rank == 0:
            try:
                parcel[0] = call()
            except Exception as error:
                parcel[1] = str(error) or type(error).__name__
                with self._together():
                    distributed.broadcast_object_list(parcel)
                raise
        with self._together():
            distributed.broadcast_object_list(parcel)
        if parcel[1] is not None:
            raise TrainingError(f"rank 0 failed: {parcel[1]}")
        result: T = parcel[0]
        return result

    def average(self, tensors: Iterable[Tensor]) -> None:
        """Replace tensors by their mean over the ranks, the same bits on all of them."""
        buckets: dict[torch.dtype, list[Tensor]] = {}
        for tensor in tensors if self.size > 1 else ():
            bucket = buckets.setdefault(tensor.dtype, [])
            bucket.append(tensor)
            if sum(t.numel() for t in bucket) >= _BUCKET:
                self._average(buckets.pop(tensor.dtype))
        for bucket in buckets.values():
            self._average(bucket)

    def differing(self, facts: Mapping[str, object]) -> list[str]:
        """Return the names of plain facts that are not the same on all ranks."""
        if self.size == 1:
            return []
        seen: list[Any] = [None] * self.size
        with self._together():
            distributed.all_gather_object(seen, dict(facts))
        names = sorted({name for one in seen for name in one})
        return [n for n in names if any(one.get(n) != seen[0].get(n) for one in seen)]

    @contextmanager
    def encoding(self, model: HashModel, *, seed: int, stream: str) -> Iterator[None]:
        """Let each trunk in training mode run on this rank's share of its batch.

        What goes in and comes out is the whole batch. Trunks in eval mode, as attacks use them,
        are left alone.

        Args:
            model: The model.
            seed: Seed of the dropout inside trunks.
            stream: Name of the step.
        """
        if self.size == 1:
            yield
            return
        calls = 0
        handles = []
        with ExitStack() as outer:
            inside = outer.enter_context(ExitStack())

            def divide(trunk: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor] | None:
                nonlocal calls
                if not trunk.training:
                    return None
                calls += 1
                inside.enter_context(seeded(seed, f"{stream}/trunk{calls}/{self.rank}"))
                return (self.share(inputs[0]),)

            def unite(trunk: nn.Module, inputs: object, own: Tensor) -> Tensor | None:
                if not trunk.training:
                    return None
                inside.close()  # back to the draws that all ranks share
                return self.gather(own.float() if own.dtype == torch.bfloat16 else own)

            for modality in model.modalities:
                trunk = model.encoder(modality).trunk
                handles.append(trunk.register_forward_pre_hook(divide))
                handles.append(trunk.register_forward_hook(unite))
            for handle in handles:
                outer.callback(handle.remove)
            yield

    def _average(self, bucket: list[Tensor]) -> None:
        flat = torch.cat([t.detach().reshape(-1) for t in bucket])
        with self._together():
            distributed.all_reduce(flat)
        flat /= self.size
        for tensor, mean in zip(
            bucket, torch.split(flat, [t.numel() for t in bucket]), strict=True
        ):
            tensor.detach().copy_(mean.view(tensor.shape))

    @contextmanager
    def _together(self) -> Iterator[None]:
        """Name what a broken connection means."""
        try:
            yield
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[0]
            raise TrainingError(
                f"rank {self.rank} of {self.size} waits for another rank that failed or is stuck: "
                f"its own error says why ({reason})"
            ) from error


ALONE = Ranks()


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, own: Tensor, ranks: Ranks) -> Tensor:
        ctx.ranks = ranks
        own = own.contiguous()
        parts = [torch.empty_like(own) for _ in range(ranks.size)]
        with ranks._together():
            distributed.all_gather(parts, own)
        return torch.stack(parts, dim=1).flatten(0, 1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        ranks: Ranks = ctx.ranks
        return ranks.share(gradients[0]) * ranks.size, None


@contextmanager
def joined(*, timeout: float = 30.0) -> Iterator[Ranks]:
    """Join the processes that a launcher (torchrun) started together; alone without one.

    CPU tensors travel by gloo, CUDA tensors by nccl.

    Args:
        timeout: Minutes that a rank waits for the others before it gives up.

    Raises:
        ConfigError: this PyTorch cannot, or the ranks do not find each other.
    """
    rank, size, _ = placed()
    if size == 1:
        yield ALONE
        return
    if timeout <= 0:
        raise ConfigError(f"the timeout of ranks must be positive, got {timeout:g} minutes")
    if not distributed.is_available():
        raise ConfigError("this PyTorch is built without torch.distributed: start one process")
    backend = "gloo"
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
        backend = "cpu:gloo,cuda:nccl"
    try:
        distributed.init_process_group(backend, timeout=timedelta(minutes=timeout))
    except (RuntimeError, ValueError) as error:
        raise ConfigError(f"rank {rank} of {size} cannot join the others: {error}") from error
    try:
        yield Ranks(rank=rank, size=size)
    finally:
        distributed.destroy_process_group()


def running_statistics(model: HashModel) -> Iterator[Tensor]:
    """Yield the running means and variances of BatchNorm inside trunks: of a rank's share."""
    for modality in model.modalities:
        for module in model.encoder(modality).trunk.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                yield from (t for t in (module.running_mean, module.running_var) if t is not None)

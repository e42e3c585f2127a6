"""`torch.distributed` for training: joining the group that torchrun started, averaging, and sharing state."""

import atexit
import json
import os
import time
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import safetensors.torch
import torch
import torch.distributed as dist
from torch import Tensor

from hcnn.storage.state_tree import flatten_state, unflatten_state

_lent: list[weakref.ref[Tensor]] = []  # what the backend's threads may still refer to


def process_group(device: torch.device) -> dist.ProcessGroup | None:
    """The group of all processes if torchrun started this one, otherwise None.

    It is joined once and left when the process ends. Processes that left a group and met again would find each other's
    old addresses, and one that leaves early may take a message with it that another has not read yet.

    Args:
        device: decides the backend: nccl for CUDA, gloo otherwise.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return None
    if not dist.is_initialized():
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
        atexit.register(_leave)
    return dist.group.WORLD


def _leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()
    # A thread of gloo still holds the last message for a moment after the call that sent it. It needs the interpreter's
    # lock to let go of it, and where the interpreter ends before, C++ aborts the process: the group's threads outlive
    # the group whenever PyTorch itself keeps a reference to it.
    deadline = time.monotonic() + 10
    while any(message() is not None for message in _lent) and time.monotonic() < deadline:
        time.sleep(0.001)  # gives the lock away


def _lend(message: Tensor) -> Tensor:
    """A tensor on the same memory to give to a collective, whose end this module waits for when the process ends.

    Args:
        message: of any shape; the collective writes into it.
    """
    alias = message.detach()  # an object that nothing but the backend refers to after the call
    _lent[:] = [reference for reference in _lent if reference() is not None]
    _lent.append(weakref.ref(alias))
    return alias


def rank_and_size(group: dist.ProcessGroup | None) -> tuple[int, int]:
    """Rank in the group and its size; (0, 1) without one."""
    return (0, 1) if group is None else (group.rank(), group.size())


def average_gradients(parameters: Sequence[Tensor], extra: Tensor, group: dist.ProcessGroup | None) -> Tensor:
    """Average all gradients over the group in one message, and some numbers with them.

    Args:
        parameters: with gradients, which are replaced by their averages.
        extra: (n,) more numbers, such as the loss.
        group: None leaves everything as it is.

    Returns:
        The average of `extra`.
    """
    if group is None:
        return extra
    gradients = [p.grad for p in parameters if p.grad is not None]
    message = torch.cat([*(g.reshape(-1) for g in gradients), extra.to(gradients[0].dtype)])
    dist.all_reduce(_lend(message), group=group)
    message /= group.size()
    start = 0
    for gradient in gradients:
        gradient.copy_(message[start : start + gradient.numel()].view_as(gradient))
        start += gradient.numel()
    return message[start:]


def share(obj: Any, group: dist.ProcessGroup | None, device: torch.device) -> Any:
    """Give rank 0's state (nested dicts and lists of tensors and numbers) to all processes, without pickle.

    Args:
        obj: the state; ignored on other ranks.
        group: None returns `obj`.
        device: of the messages; nccl wants its own GPU, gloo the CPU.

    Returns:
        Rank 0's state, bit for bit.
    """
    if group is None:
        return obj
    payload = b""
    if group.rank() == 0:
        tensors, tree = flatten_state(obj)
        payload = safetensors.torch.save(
            {name: value.contiguous().clone() for name, value in tensors.items()}, {"tree": json.dumps(tree)}
        )
    length = torch.tensor([len(payload)], device=device)
    dist.broadcast(_lend(length), 0, group=group)
    message = torch.empty(int(length), dtype=torch.uint8, device=device)
    if group.rank() == 0:
        message.copy_(torch.frombuffer(bytearray(payload), dtype=torch.uint8))
    dist.broadcast(_lend(message), 0, group=group)
    data = message.cpu().numpy().tobytes()
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    return unflatten_state(safetensors.torch.load(data), json.loads(header["__metadata__"]["tree"]))


@contextmanager
def failing_together(group: dist.ProcessGroup | None, device: torch.device) -> Iterator[None]:
    """Let every process fail where rank 0 does, in a block in which rank 0 has work of its own.

    Without it, the others would wait for a message of rank 0 that never comes. Every process must enter the block.

    Args:
        group: None changes nothing.
        device: of the messages, as for `share`.

    Raises:
        ValueError: on other ranks, with the text of the error that rank 0 raises.
    """
    error: Exception | None = None
    try:
        yield
    except Exception as raised:
        error = raised
    text = share(None if error is None else str(error), group, device)
    if error is not None:
        raise error
    if text is not None:
        raise ValueError(f"process 0: {text}")

"""Forward, loss and backward as one CUDA graph: one launch instead of thousands.

With small batches a GPU waits for the host, which needs microseconds per launch. A
graph (https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs) replays
recorded launches on the same memory. Not run on a GPU yet.
"""

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from utils.errors import UsageError
from utils.run.training import map_tensors

WARM_UP = 3  # batches before the capture: kernels are compiled, algorithms chosen

Results = tuple[Tensor, ...]


def check_cuda_graph(
    device: torch.device, processes: int, precision: str, form: str
) -> None:
    """Raise a ValueError where ``--cuda_graph`` cannot be used."""
    needs = {
        f"a GPU, and this run is on {device.type}": device.type == "cuda",
        # NCCL would have to run without the watchdog that ends a run with a lost rank.
        f"one process, and there are {processes}": processes == 1,
        "--precision fp32, bf16 or fp16: float64 kNN synchronises": precision != "fp64",
        "--edgeconv fused: the plain form's kNN synchronises": form == "fused",
    }
    for need, met in needs.items():
        if not met:
            raise ValueError(f"--cuda_graph needs {need}; leave --cuda_graph out")


class GraphedStep:
    """Calls ``step``, and replays a CUDA graph of it once shapes have repeated.

    The first shapes that come for the fourth time are captured. A batch of other shapes
    runs without the graph, before and after that. The optimiser stays outside: it is a
    few launches, and its learning rate and the scaler's checks are the host's. Results
    are valid until the next call.

    Args:
        step: sets gradients to None, then computes the loss and the gradients of a
            batch, tensors in nested tuples; it must not synchronise with the GPU.
        parameters: those that get the gradients.

    Raises:
        UsageError: if the capture fails, as when ``step`` synchronises with the GPU.
    """

    def __init__(
        self, step: Callable[..., Results], parameters: Iterable[nn.Parameter]
    ) -> None:
        self._step, self._parameters = step, list(parameters)
        self._seen: Counter[tuple] = Counter()
        self._captured: tuple = ()
        self._stream: Any = None

    def __call__(self, *batch: Any) -> Results:
        tensors = _tensors(batch)
        shapes = tuple(x.shape for x in tensors)
        if not self._captured and self._seen[shapes] == WARM_UP:
            self._batch = map_tensors(torch.clone, batch)
            self._replay, self._results = self._record()
            # A replay writes into these, whatever other batches leave in `grad`.
            self._gradients = [p.grad for p in self._parameters]
            self._captured = shapes
        if shapes != self._captured:
            self._seen[shapes] += 1
            return self._run_eagerly(batch)
        for static, new in zip(_tensors(self._batch), tensors, strict=True):
            static.copy_(new, non_blocking=True)
        self._replay()
        for parameter, gradient in zip(self._parameters, self._gradients, strict=True):
            parameter.grad = gradient
        return self._results

    def _run(self, batch: tuple) -> Results:
        # Detached: an autograd graph that is kept would tie gradients to its stream.
        return tuple(x.detach() for x in self._step(*batch))

    def _run_eagerly(self, batch: tuple) -> Results:
        """On the stream of the capture, as PyTorch asks of the steps before it."""
        if self._stream is None:
            self._stream = torch.cuda.Stream()
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            results = self._run(batch)
        torch.cuda.current_stream().wait_stream(self._stream)
        return results

    def _record(self) -> tuple[Callable[[], None], Results]:
        """What replays the step on ``_batch``, and its results; computes nothing."""
        graph = torch.cuda.CUDAGraph()
        # thread_local: meanwhile the loader's thread may pin memory.
        options = {"stream": self._stream, "capture_error_mode": "thread_local"}
        try:
            with torch.cuda.graph(graph, **options):
                results = self._run(self._batch)
        except RuntimeError as error:
            raise UsageError(
                f"--cuda_graph: the step cannot be captured: {error}; leave "
                "--cuda_graph out"
            ) from error
        return graph.replay, results


def _tensors(batch: Any) -> list[Tensor]:
    tensors: list[Tensor] = []
    map_tensors(tensors.append, batch)
    return tensors

"""One direction of a GRU layer on the CPU, compiled: one loop instead of a dozen small tensor operations per frame.

PyTorch has a fused CPU kernel for LSTMs, but none for GRUs. This computes what `torch.nn.GRU` computes, in float32, for
one layer and direction with a zero initial state; tests compare its gradients with PyTorch's. The matrix products over
all frames at once (the input projection and the weights' gradients) are left to PyTorch.

The compiled loop multiplies with SciPy's OpenBLAS. Its thread pool ignores both PyTorch's number of threads and the
load, and gains nothing for matrices this small: on two busy cores it took 18 times as long as one thread, in wall time
and in CPU time.
"""

from __future__ import annotations

import contextlib
import functools
from typing import Any

import numba
import numpy as np
import torch
from threadpoolctl import ThreadpoolController
from torch import Tensor


@functools.cache
def _blas_libraries() -> ThreadpoolController:
    import scipy.linalg  # noqa: F401  # loads the BLAS that compiled functions use

    return ThreadpoolController()


def _one_blas_thread() -> contextlib.AbstractContextManager[Any]:
    return _blas_libraries().limit(limits=1, user_api="blas")


@numba.njit(cache=True, nogil=True, fastmath={"contract", "reassoc"})
def _forward(inputs, weight, bias, states, gates):  # pragma: no cover - compiled
    """Fill states (T+1, N, H) from states[1] on, and gates (T, N, 4H): reset, update, new, recurrent part of new.

    inputs (T, N, 3H) is the input's part of the gates, weight (H, 3H) the transposed recurrent matrix, bias (3H,) the
    recurrent bias.
    """
    frames, batch, triple = inputs.shape
    size = triple // 3
    recurrent = np.empty((batch, triple), np.float32)
    for t in range(frames):
        np.dot(states[t], weight, recurrent)
        for n in range(batch):
            for i in range(size):
                reset = 1 / (1 + np.exp(-(inputs[t, n, i] + recurrent[n, i] + bias[i])))
                update = 1 / (1 + np.exp(-(inputs[t, n, size + i] + recurrent[n, size + i] + bias[size + i])))
                new_recurrent = recurrent[n, 2 * size + i] + bias[2 * size + i]
                # tanh(x) expressed by the logistic function, which is cheaper when compiled
                new = 2 / (1 + np.exp(np.float32(-2) * (inputs[t, n, 2 * size + i] + reset * new_recurrent))) - 1
                states[t + 1, n, i] = new + update * (states[t, n, i] - new)
                gates[t, n, i] = reset
                gates[t, n, size + i] = update
                gates[t, n, 2 * size + i] = new
                gates[t, n, 3 * size + i] = new_recurrent


@numba.njit(cache=True, nogil=True, fastmath={"contract", "reassoc"})
def _backward(output_grad, weight, states, gates, inputs_grad, recurrent_grad):  # pragma: no cover - compiled
    """Fill the gradients (T, N, 3H) of the input's and of the recurrent part of the gates.

    output_grad (T, N, H) is the gradient of the outputs, weight (3H, H) the recurrent matrix.
    """
    frames, batch, size = output_grad.shape
    # The two parts of the next state's gradient: through the recurrent matrix, and through the update gate.
    matrix_grad = np.zeros((batch, size), np.float32)
    update_gate_grad = np.zeros((batch, size), np.float32)
    for back in range(frames):
        t = frames - 1 - back
        for n in range(batch):
            for i in range(size):
                reset, update = gates[t, n, i], gates[t, n, size + i]
                new, new_recurrent = gates[t, n, 2 * size + i], gates[t, n, 3 * size + i]
                grad = output_grad[t, n, i] + update_gate_grad[n, i] + matrix_grad[n, i]
                grad_new = grad * (1 - update) * (1 - new * new)
                grad_update = grad * (states[t, n, i] - new) * update * (1 - update)
                grad_reset = grad_new * new_recurrent * reset * (1 - reset)
                inputs_grad[t, n, i] = grad_reset
                inputs_grad[t, n, size + i] = grad_update
                inputs_grad[t, n, 2 * size + i] = grad_new
                recurrent_grad[t, n, i] = grad_reset
                recurrent_grad[t, n, size + i] = grad_update
                recurrent_grad[t, n, 2 * size + i] = grad_new * reset
                update_gate_grad[n, i] = grad * update
        np.dot(recurrent_grad[t], weight, matrix_grad)


class _Recurrence(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        frames, batch, triple = inputs.shape
        size = triple // 3
        states = torch.zeros(frames + 1, batch, size)
        gates = torch.empty(frames, batch, 4 * size)
        transposed = weight.detach().t().contiguous().numpy()
        given = inputs.detach().contiguous().numpy(), transposed, bias.detach().numpy()
        with _one_blas_thread():
            _forward(*given, states.numpy(), gates.numpy())
        ctx.save_for_backward(weight, states, gates)
        return states[1:]

    @staticmethod
    def backward(ctx: Any, output_grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        weight, states, gates = ctx.saved_tensors
        frames, batch, size = output_grad.shape
        inputs_grad = torch.empty(frames, batch, 3 * size)
        recurrent_grad = torch.empty(frames, batch, 3 * size)
        given = output_grad.contiguous().numpy(), weight.detach().contiguous().numpy(), states.numpy(), gates.numpy()
        with _one_blas_thread():
            _backward(*given, inputs_grad.numpy(), recurrent_grad.numpy())
        rows = recurrent_grad.flatten(0, 1)
        return inputs_grad, rows.t() @ states[:-1].flatten(0, 1), rows.sum(dim=0)


def gru_direction(x: Tensor, weight_ih: Tensor, weight_hh: Tensor, bias_ih: Tensor, bias_hh: Tensor) -> Tensor:
    """Outputs `(T, N, H)` of one GRU direction for x `(T, N, D)` on the CPU; weights are named as in `torch.nn.GRU`."""
    inputs = torch.nn.functional.linear(x, weight_ih, bias_ih)
    # The compiled loop takes float32 only; under autocast its inputs may have another type.
    return _Recurrence.apply(inputs.float(), weight_hh, bias_hh)

"""The published updates of each optimizer, written down in float64 numpy for one tensor, from their sources alone."""
import numpy as np


def _rms(x: np.ndarray) -> float:
    return float(np.sqrt(np.mean(x**2)))


def adamw(w, gradients, rates, decay, beta1=0.9, beta2=0.95, eps=1e-8):
    m, v = np.zeros_like(w), np.zeros_like(w)
    for t, (g, rate) in enumerate(zip(gradients, rates, strict=True), 1):
        m, v = beta1 * m + (1 - beta1) * g, beta2 * v + (1 - beta2) * g * g
        w = w - rate * (m / (1 - beta1**t) / (np.sqrt(v / (1 - beta2**t)) + eps) + decay * w)
    return w


def scaled_adamw(w, gradients, rates, decay, beta1=0.9, exponent=0.95, kept=np.float64):
    """EasyLM at efcea8a: optax.adafactor without factors and clipping, with momentum; then a scheduled decay.

    `kept`: the momentum's dtype between updates, to which beta1 is rounded, too (0.9 is 0.8984 in bfloat16).
    """
    m, v = np.zeros_like(w), np.zeros_like(w)
    for t, (g, rate) in enumerate(zip(gradients, rates, strict=True), 1):
        keep = 1 - t**-exponent
        v = keep * v + (1 - keep) * (g * g + 1e-30)
        update = rate * g / np.sqrt(v) * max(_rms(w), 1e-3)
        m = float(kept(beta1)) * m.astype(kept).astype(np.float64) + (1 - beta1) * update
        w = w - m - rate * decay * w
    return w


def adafactor(w, gradients, rates, decay, exponent=0.8):
    """Factored over the two long dims of tensors that have two of at least 128; else a second moment each."""
    long = [dim for dim, size in enumerate(w.shape) if size >= 128]
    rows = columns = full = 0.0
    for t, (g, rate) in enumerate(zip(gradients, rates, strict=True), 1):
        keep, square = 1 - t**-exponent, g * g + 1e-30
        if len(long) == 2:
            rows = keep * rows + (1 - keep) * square.mean(long[1], keepdims=True)
            columns = keep * columns + (1 - keep) * square.mean(long[0], keepdims=True)
            second = rows * columns / rows.mean(long[0], keepdims=True)
        else:
            full = second = keep * full + (1 - keep) * square
        update = g / np.sqrt(second)
        update = update / max(1.0, _rms(update)) * max(_rms(w), 1e-3)
        w = w - rate * (update + decay * w)
    return w


def lion(w, gradients, rates, decay, beta1=0.9, beta2=0.99):
    m = np.zeros_like(w)
    for g, rate in zip(gradients, rates, strict=True):
        w = w - rate * (np.sign(beta1 * m + (1 - beta1) * g) + decay * w)
        m = beta2 * m + (1 - beta2) * g
    return w


def muon(w, gradients, rates, decay, momentum=0.95):
    """One matrix. The momentum is debiased before Nesterov's look ahead, as in optax."""
    m = np.zeros_like(w)
    for t, (g, rate) in enumerate(zip(gradients, rates, strict=True), 1):
        m = momentum * m + (1 - momentum) * g
        ahead = momentum * m / (1 - momentum**(t + 1)) + (1 - momentum) * g / (1 - momentum**t)
        w = w - rate * (0.2 * np.sqrt(max(w.shape)) * _newton_schulz(ahead) + decay * w)
    return w


def _newton_schulz(x):
    a, b, c = 3.4445, -4.7750, 2.0315
    x = x / (np.linalg.norm(x) + 1e-8)
    for _ in range(5):
        square = x @ x.T
        x = a * x + (b * square + c * square @ square) @ x
    return x

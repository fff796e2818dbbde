"""Filters of a first convolution that follow from the images: their outputs are uncorrelated and of equal size.

Source: airbench (github.com/KellerJordan/cifar10-airbench), after David Page's "How to Train Your ResNet 8".
"""

import math
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import unfold

EPSILON = 0.01  # added to eigenvalues, of pixels of deviation 1: directions of hardly any size stay small
SWEEPS = 30  # of Jacobi's method, at most; matrices of 4 rows take five, of 12 rows seven


def filters(batches: Iterable[Tensor], side: int, scale: Sequence[float], shift: Sequence[float]) -> Tensor:
    """The eigenvectors of the second moments of patches, divided by the square roots of their eigenvalues.

    The sums of the pixels and of their products are integers below 2^53, so no order of addition changes them.

    Args:
        batches: images, ``(n, C, H, W) uint8`` each.
        side: of the patches, in pixels.
        scale, shift: by channel, of the network's input: ``pixel * scale + shift``.

    Returns:
        ``(C * side * side, C, side, side) float64``, the largest eigenvalue first.
    """
    products, sums, count = torch.zeros(()), torch.zeros(()), 0
    for batch in batches:
        patches = unfold(batch.float(), side).transpose(1, 2).flatten(0, 1).double()
        products, sums, count = products + patches.T @ patches, sums + patches.sum(0), count + len(patches)
    factor, offset = (np.repeat(np.asarray(values, np.float64), side**2) for values in (scale, shift))
    means = factor * (sums / count).numpy()
    moments = np.outer(factor, factor) * (products / count).numpy()
    moments += np.outer(means, offset) + np.outer(offset, means) + np.outer(offset, offset)
    values, vectors = eigh(moments)
    found = (vectors / np.sqrt(values + EPSILON)).T[::-1]
    return torch.from_numpy(found.copy()).view(-1, len(scale), side, side)


def eigh(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues, ascending, and eigenvectors, in columns, of a symmetric matrix, by Jacobi's rotations.

    As ``numpy.linalg.eigh``, but of additions, multiplications, divisions and square roots alone, which all processors
    round in the same way. The first component of each vector is negative.
    """
    matrix, vectors = matrix.copy(), np.eye(len(matrix))
    pairs = [(i, j) for j in range(len(matrix)) for i in range(j)]
    for _ in range(SWEEPS):
        if all(matrix[pair] == 0 for pair in pairs):
            break
        for i, j in pairs:
            if matrix[i, j] == 0:
                continue
            slope = float(matrix[j, j] - matrix[i, i]) / (2 * float(matrix[i, j]))
            tangent = math.copysign(1, slope) / (abs(slope) + math.sqrt(slope * slope + 1))
            cosine = 1 / math.sqrt(tangent * tangent + 1)
            sine = tangent * cosine
            for rotated in (matrix, matrix.T, vectors):
                first, second = rotated[:, i].copy(), rotated[:, j].copy()
                rotated[:, i], rotated[:, j] = cosine * first - sine * second, sine * first + cosine * second
    order = np.argsort(matrix.diagonal(), kind="stable")
    vectors = vectors[:, order]
    return matrix.diagonal()[order], vectors * -np.copysign(1, vectors[0])

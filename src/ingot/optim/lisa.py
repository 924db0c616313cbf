r"""LISA: AdamW on the embedding, the head and a few random layers at a time.   Pan et al. 2024, arXiv:2403.17919, Algorithm 1.

    every `every` steps draw `layers` of the N layers (gamma), each as likely as any other, and train them with AdamW;
    embedding, final norm and head are always trained; all other layers rest

While a layer rests no gradient is computed for its weights. The state of a drawn layer begins at zero and is dropped at the next
draw; that of embedding, norm and head lives on. The layers are a function of the steps made and the seed, so a resumed run trains
those it trained.

DEPARTS: the paper's algorithm draws every layer by itself with probability gamma / N; as in the authors' code exactly gamma are drawn.

Shapes: m, v, g as w.   State: two tensors and a step count per weight in training; nothing for layers that rest.
Cost: no matmul FLOPs; backward computes the gradients of gamma layers' weights, and those of all activations.
Gradients alive: those of gamma layers, embedding and head. Compiled blocks are compiled once more for each way of being frozen.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ..core.parts import NonNegative, Positive, part
from ._blocks import REST, BlockAdamW, block_of, shuffled
from ._groups import Beta


@part
class LISA(BlockAdamW):
    """layers: trained at a time (gamma); all of them where the model has no more. every: steps between draws (K)."""

    kept = frozenset({REST})

    def __init__(
        self,
        params: Iterable[Any],
        *,
        lr: Positive[float],
        betas: tuple[Beta, Beta] = (0.9, 0.95),
        eps: NonNegative[float] = 1e-8,
        weight_decay: NonNegative[float] = 0.1,
        layers: Positive[int] = 2,
        every: Positive[int] = 20,
        seed: NonNegative[int] = 0,
    ):
        super().__init__(params, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, every=every, seed=seed)
        self.defaults["layers"] = layers

    def chosen(self, period: int, blocks: list[str]) -> set[str]:
        layers = [block for block in blocks if block != REST]
        return {REST, *shuffled(layers, self.defaults["seed"], period)[: self.defaults["layers"]]}

    @property
    def phase(self) -> str:  # type: ignore[override]
        """Layers of the same size cost the same, whichever they are: the embedding takes backward all the way down anyway."""
        sizes: dict[str, int] = {}
        for group in self.param_groups:
            for name, weight in zip(group["names"], group["params"]):
                sizes[block_of(name)] = sizes.get(block_of(name), 0) + weight.numel()
        return "/" + ",".join(str(size) for size in sorted(sizes.get(block, 0) for block in self.active()))

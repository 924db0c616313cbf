r"""Dense matrices in place of masked, factorized or structured ones: SPDF's second stage.   Thangarasa et al. 2023, arXiv:2303.10464,
section 2 (dense after sparse pre-training); for the others, merging as in Hu et al. 2021, arXiv:2106.09685.

    W' = W as the layer multiplied by it: M * W, B A, W + s B A, s B A + S, P2 R P1 L or beta S(W)

The function stays; what was fixed to zero, or to a rank, learns from here on. Layers that also round their inputs or normalize them
(ternary, quantized) are no matrix, and are refused.

State: a layer that kept a trained matrix of the same shape passes its optimizer state on (masked entries have had no gradient, so
their moments are 0); factors' state is dropped.   Cost: one product per layer, once.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from ..core.parts import Slot, Spec, part
from ..core.recipe import Recipe
from ..core.resolve import resolve
from ._carry import Take

if TYPE_CHECKING:
    from torch import Tensor

    from ..core.axes import Axes
    from ..core.seams import Snapshot, Target

STACKS = ("encoder", "decoder")  # the components whose knob `linear` says what their projections are


@part
class Densify:
    """Has no knobs: every linear of the model becomes dense."""

    preserves = True

    def __init__(self) -> None:
        """Nothing to set."""

    @staticmethod
    def example(tree: dict[str, Any]) -> dict[str, Any]:
        """A model section with something to make dense, from any other."""
        tree["encoder"]["linear"] = {"name": "static_sparse"}
        return tree

    def graph(self, tree: dict[str, Any]) -> dict[str, Any]:
        found = copy.deepcopy(tree)
        if all(linear_of(tree, stack) is None for stack in STACKS):
            raise ValueError("every linear of the model is dense already")
        for stack in STACKS:
            linear = linear_of(tree, stack)
            if linear is not None:
                if not getattr(linear.target, "exact", False):
                    raise ValueError(
                        f"{stack}.linear {linear.name!r} does more than multiply by a matrix, so no dense one can stand for it"
                    )
                found[stack]["linear"] = {"name": "dense"}
        return found

    def __call__(self, snapshot: Snapshot, target: Target) -> Snapshot:
        take = Take(snapshot, target)
        for name, wanted in target.weights.items():
            path, _, last = name.rpartition(".")
            # an objective's own projections are of the encoder's kind
            linear = linear_of(snapshot.tree, "decoder" if path.startswith("decoder.") else "encoder")
            held = {key.removeprefix(f"{path}."): value for key, value in snapshot.weights.items() if key.startswith(f"{path}.")}
            if linear is None or last != "weight" or not any(_stands_in(snapshot.axes.get(f"{path}.{key}")) for key in held):
                continue
            weight = effective(linear, held, target.axes[name].names, wanted)
            if name in snapshot.weights and snapshot.state.get(name):
                take.copy(name, name)
                take.weights[name] = weight
            else:
                take.set(name, weight)
        take.rest()
        return take.result()


def _stands_in(axes: Axes | None) -> bool:
    return axes is not None and axes.whole is not None


def linear_of(tree: dict[str, Any], stack: str) -> Spec | None:
    """What the component's projections are, where they are not dense."""
    chosen = (tree.get(stack) or {}).get("linear")
    spec: Spec | None = resolve(Recipe({"name": chosen} if isinstance(chosen, str) else chosen), Slot["nn.linear"]) if chosen else None
    return None if spec is None or spec.name == "dense" else spec


def effective(linear: Spec, held: dict[str, Tensor], names: tuple[str, ...], like: Tensor) -> Tensor:
    """The matrix of one layer, from what it holds."""
    outputs, inputs = like.shape
    layer = linear.build(inputs=inputs, outputs=outputs, bias="bias" in held, axes=names, role="matrix")
    layer.to(like.dtype).load_state_dict(held)
    weight: Tensor = layer.effective().detach().clone()
    return weight

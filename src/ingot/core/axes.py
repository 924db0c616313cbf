"""What every parameter is: the names of its axes and its role.

Width transfer, growth, sharding, Muon's groups, merging and conversion read these, never class names. A module labels the
parameters it owns; labels live on the module, not on the tensor, because sharding and compilation replace tensors.

Axis names:  width, hidden, heads (n_heads * head_dim, flattened), kv_heads (n_kv_heads * head_dim, flattened), head_dim,
             vocabulary, positions, experts, rank, classes, or any other name; scaled by width transfer: width, hidden, heads, kv_heads.
Roles:       embedding, matrix (a hidden weight), head (to the vocabulary or classes), scale (norm gains and other vectors),
             bias, position.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from torch import nn

Role = Literal["embedding", "matrix", "head", "scale", "bias", "position"]
WIDTHS = frozenset({"width", "hidden", "heads", "kv_heads"})
STACKS = frozenset({"experts", "blocks"})  # as the leading one of three or more axes: so many matrices, not one


class Whole(NamedTuple):
    """Axis names and shape of a dense matrix."""

    names: tuple[str, ...]
    shape: tuple[int, ...]


class _NamesAndRole(NamedTuple):
    names: tuple[str, ...]
    role: Role


class Axes(_NamesAndRole):
    """names: one axis name per dimension, output axis first as torch.nn.Linear stores it. role: see the module's docstring.

    whole: of a factor or a compact form, the dense matrix that it stands for together with others; width transfer reads its sizes.
    """

    whole: Whole | None = None


def label(module: nn.Module, parameter: str, *names: str, role: Role, whole: Whole | None = None) -> None:
    """Declare the axes of ``module.<parameter>``; raises ValueError if the count of names is not its number of dimensions."""
    tensor = getattr(module, parameter)
    if tensor is not None and tensor.dim() != len(names):
        raise ValueError(f"{type(module).__name__}.{parameter} has {tensor.dim()} dimensions but {len(names)} axis names {names}")
    axes = Axes(tuple(names), role)
    if whole is not None:
        axes.whole = whole
    module.__dict__.setdefault("_ingot_axes", {})[parameter] = axes


def axes_of(model: nn.Module) -> dict[str, Axes]:
    """Every parameter's path -> its axes. A tied parameter appears under its first path. Raises ValueError naming unlabeled ones."""
    found, unlabeled = {}, []
    modules = dict(model.named_modules())
    for path, _ in model.named_parameters():
        owner, _, name = path.rpartition(".")
        axes = modules[owner].__dict__.get("_ingot_axes", {}).get(name)
        if axes is None:
            unlabeled.append(path)
        else:
            found[path] = axes
    if unlabeled:
        raise ValueError("parameters without declared axes (call ingot.core.axes.label): " + ", ".join(unlabeled))
    return found

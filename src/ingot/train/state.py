"""Everything that training changes, by name: what a checkpoint holds and what resuming puts back.

Tensors carry these names:

    model.<parameter or persistent buffer>     a tied weight appears once, under its first path
    optim.<parameter>.<key>                    optimizer state of a parameter, as a shard where the parameter is one
    group.<index>.<key>                        tensors among an optimizer group's values
    hook.<name>.<key>                          tensors of a hook's state_dict

Plain values (numbers, words, lists of them) of the same places go into the manifest as JSON.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from ..core.errors import UserError
from ..core.progress import Progress

NOT_VALUES = frozenset({"params", "names", "axes"})
Shape = tuple[torch.dtype, tuple[int, ...]]


@dataclass
class State:
    """A run at one moment. extra: plain values to keep with it. lineage: what was done to the model before (transforms, parents)."""

    model: nn.Module
    optimizer: Any = None
    progress: Progress = field(default_factory=Progress)
    hooks: dict[str, Any] = field(default_factory=dict)
    extra: dict[str, Any] = field(default_factory=dict)
    lineage: list[dict[str, Any]] = field(default_factory=list)
    _waiting: dict[str, dict[str, Any]] = field(default_factory=dict, repr=False)

    def attach_hooks(self, hooks: Mapping[str, Any]) -> None:
        """The hooks of the stage. Each receives what the loaded checkpoint holds for its name, once; else what its namesake of the stage
        before holds, which goes on in it."""
        held = _states({name: hook for name, hook in self.hooks.items() if hooks.get(name) is not hook}) | self._waiting
        self.hooks = dict(hooks)
        for name, hook in self.hooks.items():
            if "." in name:
                raise ValueError(f"the hook name {name!r} holds a dot, which separates names in a checkpoint")
            if name in held and hasattr(hook, "load_state_dict"):
                hook.load_state_dict(held[name])
        self._waiting.clear()

    def forget_hooks(self) -> list[str]:
        """Let go of what the hooks hold, which belongs to a model that is no more; the names of those that held something."""
        held = list(self._hook_states())
        self.hooks, self._waiting = {}, {}
        return held

    # -- what a checkpoint holds ----------------------------------------------------------------------------------------------

    def tensors(self) -> dict[str, Tensor]:
        """Every tensor, aliasing the live run: copy before changing. On all ranks the same names, DTensors where sharded."""
        found = model_tensors(self.model)
        for name, parameter in self._trained():
            for key, value in self.optimizer.state.get(parameter, {}).items():
                if isinstance(value, Tensor):
                    found[_optimizer_name(name, key)] = value
        for index, group in enumerate(self._groups()):
            found |= {f"group.{index}.{key}": value for key, value in group.items() if isinstance(value, Tensor)}
        for name, held in self._hook_states().items():
            found |= {f"hook.{name}.{key}": value for key, value in held.items() if isinstance(value, Tensor)}
        return found

    def plain(self) -> dict[str, Any]:
        """Everything else that is needed to go on, as JSON data. Raises TypeError for what JSON cannot hold exactly."""
        states: dict[str, dict[str, Any]] = {}
        for name, parameter in self._trained():
            values = {key: value for key, value in self.optimizer.state.get(parameter, {}).items() if not isinstance(value, Tensor)}
            if values:
                states[name] = _as_json(values, f"the optimizer's state of {name}")
        groups = [{key: value for key, value in group.items() if key not in NOT_VALUES and _is_plain(value)} for group in self._groups()]
        hooks = {
            name: _as_json({key: value for key, value in held.items() if not isinstance(value, Tensor)}, f"hook {name}")
            for name, held in self._hook_states().items()
        }
        return {
            "groups": _as_json(groups, "the optimizer's groups"),
            "group_names": self._group_names(),
            "optimizer": states,
            "hooks": hooks,
            "extra": _as_json(self.extra, "state.extra"),
        }

    # -- putting it back -------------------------------------------------------------------------------------------------------

    def receivers(self, stored: Mapping[str, Shape], plain: Mapping[str, Any]) -> dict[str, Tensor]:
        """The tensors to load into, one for each name that this run has or the checkpoint needs.

        stored: dtype and shape of what the checkpoint holds. Optimizer state that does not exist yet is created, and what the
        checkpoint does not hold for a parameter is dropped, so a run saved before its first step resumes before its first step.
        Raises UserError when the optimizer's groups are not those of the checkpoint.
        """
        found = model_tensors(self.model)
        self._match_groups(plain.get("group_names", []))
        found |= self._optimizer_receivers(stored, plain.get("optimizer", {}))
        for index, group in enumerate(self._groups()):
            found |= {f"group.{index}.{key}": value for key, value in group.items() if isinstance(value, Tensor)}
        live = {
            f"hook.{name}.{key}": value
            for name, held in self._hook_states().items()
            for key, value in held.items()
            if isinstance(value, Tensor)
        }
        for name, (dtype, shape) in stored.items():
            if name.startswith("hook."):
                fits = name in live and live[name].dtype == dtype and tuple(live[name].shape) == shape
                found[name] = live[name].detach().clone() if fits else torch.empty(shape, dtype=dtype)
        return found

    def restore(
        self, loaded: Mapping[str, Tensor], plain: Mapping[str, Any], progress: Mapping[str, Any], lineage: list[dict[str, Any]]
    ) -> None:
        """Put back what is not loaded in place: plain values, hooks, progress, lineage."""
        parameters = dict(self._trained())
        for name, values in plain.get("optimizer", {}).items():
            held = self.optimizer.state[parameters[name]]
            held.update({key: _like(value, held.get(key)) for key, value in values.items()})
        for group, values in zip(self._groups(), plain.get("groups", []), strict=True):
            group.update({key: _like(value, group.get(key)) for key, value in values.items()})
        self.extra = copy.deepcopy(dict(plain.get("extra", {})))
        self.progress = Progress.from_dict(dict(progress))
        self.lineage = list(lineage)
        self._waiting = {name: dict(values) for name, values in plain.get("hooks", {}).items()}
        for name, tensor in loaded.items():
            if name.startswith("hook."):
                _, hook, key = name.split(".", 2)
                self._waiting.setdefault(hook, {})[key] = tensor
        if self.hooks:
            self.attach_hooks(self.hooks)

    # -- growing ---------------------------------------------------------------------------------------------------------------

    def whole(self, keep: bool = True) -> dict[str, Tensor]:
        """Every tensor, gathered from all ranks and copied to the CPU; collective. Where it is not to be kept, an empty dict."""
        found = {}
        for name, tensor in self.tensors().items():
            full = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
            if keep:
                found[name] = full.detach().to("cpu", copy=True).contiguous()
        return found

    def fill_optimizer(self, values: Mapping[str, Tensor], stored: Mapping[str, Shape], plain: Mapping[str, Mapping[str, Any]]) -> None:
        """Give a fresh optimizer the state of its parameters; collective.

        values: whole tensors by name on rank 0, nothing elsewhere. stored: their dtypes and shapes, on all ranks. plain: what is not
        a tensor, by parameter and key. Parameters that are not named keep no state, and get it as in a first step.
        """
        targets = self._optimizer_receivers(stored, plain)
        for name in sorted(targets):
            put(targets[name], values.get(name))
        parameters = dict(self._trained())
        for name, held in plain.items():
            live = self.optimizer.state[parameters[name]]
            live.update({key: _like(value, live.get(key)) for key, value in held.items()})

    def create_optimizer_state(self) -> None:
        """Make a lazy optimizer allocate its state: one step on zero gradients, after which weights and groups are put back exactly."""
        parameters = [parameter for _, parameter in self._trained()]
        before = [(parameter.grad, parameter.detach().clone()) for parameter in parameters]
        groups = [{key: _copied(value) for key, value in group.items() if key not in NOT_VALUES} for group in self._groups()]

        def closure() -> Tensor:
            for parameter in parameters:
                parameter.grad = torch.zeros_like(parameter)
            return torch.zeros(())

        try:
            closure()
            self.optimizer.step(closure)
        finally:
            with torch.no_grad():
                for parameter, (gradient, weight) in zip(parameters, before, strict=True):
                    parameter.copy_(weight)
                    parameter.grad = gradient
            for group, values in zip(self._groups(), groups, strict=True):
                for key, value in values.items():
                    if isinstance(value, Tensor):
                        group[key].copy_(value)
                    elif _is_plain(value):
                        group[key] = value

    def bytes_expected(self) -> int:
        """Bytes of all tensors, over all ranks; before the first step, two tensors per trained parameter are assumed for the optimizer."""
        total = sum(tensor.nbytes for tensor in self.tensors().values())
        if self.optimizer is not None and not self.optimizer.state:
            total += 2 * sum(parameter.nbytes for _, parameter in self._trained())
        return total

    # -- inside ----------------------------------------------------------------------------------------------------------------

    def _groups(self) -> list[dict[str, Any]]:
        return [] if self.optimizer is None else list(self.optimizer.param_groups)

    def _group_names(self) -> list[list[str]]:
        put_back_shards(self.model)
        known: dict[int, str] = {}
        for name, parameter in self.model.named_parameters():
            known.setdefault(id(parameter), name)
        return [list(group.get("names") or (known[id(parameter)] for parameter in group["params"])) for group in self._groups()]

    def _trained(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Names and parameters of the optimizer, each once."""
        seen: set[int] = set()
        for names, group in zip(self._group_names(), self._groups(), strict=True):
            for name, parameter in zip(names, group["params"], strict=True):
                if id(parameter) not in seen:
                    seen.add(id(parameter))
                    yield name, parameter

    def _hook_states(self) -> dict[str, dict[str, Any]]:
        """State of the hooks, those included whose state is loaded but which are not attached yet."""
        return self._waiting | _states(self.hooks)

    def _match_groups(self, stored: list[list[str]]) -> None:
        live = self._group_names()
        if live != stored:
            only = {name for names in stored for name in names} ^ {name for names in live for name in names}
            detail = f": {', '.join(sorted(only)[:4])} on one side only" if only else ""
            raise UserError(f"the optimizer's {len(live)} parameter groups are not the {len(stored)} of the checkpoint{detail}")

    def _optimizer_receivers(self, stored: Mapping[str, Shape], plain: Mapping[str, Mapping[str, Any]]) -> dict[str, Tensor]:
        wanted: dict[str, set[str]] = {name: set() for name, _ in self._trained()}
        for path in stored:
            name, _, key = path.removeprefix("optim.").rpartition(".")
            if path.startswith("optim.") and name in wanted:
                wanted[name].add(key)
        for name in wanted:
            wanted[name] |= set(plain.get(name, {}))
        if any(wanted[name] - set(self.optimizer.state.get(parameter, {})) for name, parameter in self._trained()):
            self.create_optimizer_state()
        found = {}
        for name, parameter in self._trained():
            held = self.optimizer.state[parameter] if wanted[name] else self.optimizer.state.pop(parameter, {})
            for key in [key for key in held if key not in wanted[name]]:
                del held[key]
            for key in sorted(wanted[name] - set(plain.get(name, {}))):
                path = f"optim.{name}.{key}"
                if not isinstance(held.get(key), Tensor):
                    dtype, shape = stored[path]
                    alike = shape == tuple(parameter.shape)
                    held[key] = (
                        torch.zeros_like(parameter, dtype=dtype) if alike else torch.zeros(shape, dtype=dtype, device=parameter.device)
                    )
                found[path] = held[key]
        return found


def put(live: Tensor, value: Tensor | None) -> None:
    """Copy rank 0's whole tensor into a live one, on every rank that holds a piece of it; collective."""
    with torch.no_grad():
        if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
            assert value is not None
            value = value.to(live.device, live.dtype)
            live.copy_(distribute_tensor(value, live.device_mesh, live.placements) if isinstance(live, DTensor) else value)
            return
        local = live.to_local() if isinstance(live, DTensor) else live
        whole = torch.empty(live.shape, dtype=live.dtype, device=local.device) if value is None else value.to(local.device, live.dtype)
        if isinstance(live, DTensor):
            live.copy_(distribute_tensor(whole, live.device_mesh, live.placements))
            return
        moved = whole.cuda() if "nccl" in dist.get_backend() and not whole.is_cuda else whole.contiguous()
        dist.broadcast(moved, src=0)
        live.copy_(moved)


def put_back_shards(model: nn.Module) -> None:
    """After a forward without backward (evaluation) a sharded root still shows whole weights, not those the optimizer knows."""
    for module in model.modules():
        if hasattr(module, "reshard") and hasattr(module, "unshard"):
            cast(Any, module).reshard()


def model_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and persistent buffers by path, each tensor once, in sharded form where the model is sharded."""
    put_back_shards(model)
    found: dict[str, Tensor] = {f"model.{name}": parameter for name, parameter in model.named_parameters()}
    seen = {id(tensor) for tensor in found.values()}
    for path, module in model.named_modules():
        for name, buffer in module.named_buffers(recurse=False):
            if name not in module._non_persistent_buffers_set and id(buffer) not in seen:
                seen.add(id(buffer))
                found["model." + (f"{path}." if path else "") + name] = buffer
    return found


def _states(hooks: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """What hooks keep, of those that keep something."""
    held = {name: hook.state_dict() for name, hook in hooks.items() if hasattr(hook, "state_dict")}
    return {name: value for name, value in held.items() if value}


def _optimizer_name(parameter: str, key: Any) -> str:
    if not isinstance(key, str) or "." in key:
        raise TypeError(f"the optimizer keeps state of {parameter} under {key!r}; keys are words without dots")
    return f"optim.{parameter}.{key}"


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, bool | int | float | str) or (isinstance(value, list | tuple) and all(map(_is_plain, value)))


def _as_json(value: Any, owner: str) -> Any:
    """A copy as JSON gives it back; a value that JSON has no exact form for is a bug of its owner."""
    try:
        return json.loads(json.dumps(value))
    except (TypeError, ValueError) as error:
        raise TypeError(f"{owner} holds a value that a checkpoint cannot: {error}") from None


def _like(value: Any, live: Any) -> Any:
    """JSON has no tuples: give one back where the live value is one."""
    return tuple(value) if isinstance(live, tuple) and isinstance(value, list) else value


def _copied(value: Any) -> Any:
    return value.detach().clone() if isinstance(value, Tensor) else copy.copy(value) if isinstance(value, list | dict) else value

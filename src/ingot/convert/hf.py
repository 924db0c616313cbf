"""Hugging Face folders in and out: configuration, safetensors, tokenizer. Pickled weights are refused, remote code is never run."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from math import prod
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from ..core.errors import UserError, missing_extra, shown
from ..core.parts import plain
from ._express import Form, families, form_for
from ._express import said as said_of
from ._image import normalized
from ._mapping import Family, Section, gather, scatter
from ._section import BEHIND, SLOTS, complete, differences, specs

SHARD_BYTES = 5 * 10**9
PROCESSOR = "preprocessor_config.json"
SPECIALS = {"mask": 0, "sentinel_0": 0}  # stand in where a model is built that will not be trained


def locate(name: str) -> Path:
    """A folder as it is, or a name on the Hugging Face hub, downloaded without pickled files. UserError when it is neither."""
    if Path(name).is_dir():
        return Path(name)
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise UserError(f"{name}: there is no such folder")
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise missing_extra("huggingface_hub", "hf") from None
    try:
        return Path(snapshot_download(name, allow_patterns=["*.json", "*.safetensors", "*.txt"]))
    except Exception as error:
        raise UserError(f"{name}: no such folder, and the hub did not give it ({type(error).__name__})") from error


def read_section(folder: str | Path) -> tuple[Section, dict[str, Any]]:
    """Model section (plain recipe data) from config.json alone, and more about the checkpoint.

    The latter holds sequence, vocabulary, family (its name), config, and tokenizer (the path of tokenizer.json, or None).
    Raises UserError for a configuration that is not there or not understood.
    """
    folder = Path(folder)
    config = _config(folder)
    fitting = [item for item in families().values() if config.get("model_type") in item.model_types]
    family = next((item for item in fitting if item.architecture in (config.get("architectures") or ())), next(iter(fitting), None))
    if family is None:
        known = ", ".join(kind for item in families().values() for kind in item.model_types)
        raise UserError(f"{folder}: a model of type {config.get('model_type')!r} cannot be read; known are {known}")
    try:
        section, sequence = family.read(config)
        if family.preprocessor is not None and (folder / PROCESSOR).is_file():
            section = normalized(section, _json(folder / PROCESSOR))
        told = config if "vocab_size" in config else config.get("text_config") or {}
        vocabulary = int(told["vocab_size"]) if "vocab_size" in told else None
    except KeyError as error:
        raise UserError(f"{folder}/config.json: {family.name} needs {error.args[0]!r}") from None
    except (TypeError, ValueError, ArithmeticError, AttributeError) as error:
        raise UserError(f"{folder}: its configuration is not one of {family.name}: {error}") from None
    tokenizer = folder / "tokenizer.json"
    extra = {"sequence": sequence, "vocabulary": vocabulary, "family": family.name, "config": config}
    return section, extra | {"tokenizer": tokenizer if tokenizer.is_file() else None}


def read_folder(folder: str | Path) -> tuple[Section, dict[str, Tensor], Path | None, dict[str, Any]]:
    """Model section, tensors under our names, tokenizer.json if there is one, and what ``read_section`` says beside.

    Raises UserError for what is not there, not understood, or not as the configuration describes it.
    """
    section, extra = read_section(folder)
    shapes = expected_shapes(section, sequence=extra["sequence"], vocabulary=extra["vocabulary"])
    family = families()[extra["family"]]
    state = gather(family, complete(section, extra["sequence"]), _tensors(Path(folder)), shapes)
    return section, state, extra["tokenizer"], extra


def load_into(model: nn.Module, section: Any, folder: str | Path) -> list[str]:
    """Fill a model, built from ``section``, with a folder's weights. Embedding and encoder must be the folder's own.

    Of the objective, what fits by name and shape is filled and the rest left; a head that the section unties starts as the
    embedding it was tied to. Returns the names of the objective's weights that were left. Raises UserError saying where the section differs.
    """
    held, state, _, extra = read_folder(folder)
    wanted, held = complete(section, extra["sequence"]), complete(held, extra["sequence"])
    if not (Path(folder) / PROCESSOR).is_file():  # then the section alone says how bytes are normalized
        held["embedding"] |= {name: wanted["embedding"][name] for name in ("mean", "std") if name in wanted["embedding"]}
    components = [name for name in ("embedding", "encoder", *BEHIND, "towers", "width") if name in wanted or name in held]
    if other := differences({key: wanted.get(key) for key in components}, {key: held.get(key) for key in components}):
        raise UserError(f"the model is not the one in {folder}, which has no {', '.join(other[:5])}")
    own = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    if "objective.head.weight" in own and "objective.head.weight" not in state and "embedding.weight" in state:
        state["objective.head.weight"] = state["embedding.weight"].clone()
    state = {name: tensor for name, tensor in state.items() if own.get(name) == tuple(tensor.shape)}
    if missing := [name for name in own if name not in state and not name.startswith("objective.")]:
        raise UserError(f"{folder}: does not fit {missing[0]}, which has shape {own[missing[0]]} in the model")
    model.load_state_dict(state, strict=False)
    return [name for name in own if name not in state]


def family_for(section: Any, *, sequence: int = 1024) -> Family:
    """The first family that can express the section. UserError says what keeps the nearest one from it."""
    return form_for(complete(section, sequence), sequence).family


def write_folder(
    model: nn.Module,
    section: Any,
    folder: str | Path,
    tokenizer: Any = None,
    *,
    sequence: int | None = None,
    dtype: torch.dtype | None = None,
    kind: str | None = None,
    say: Callable[[str], None] | None = None,
) -> str:
    """Write the model as a folder that transformers opens; returns the family's name. UserError when no family can express it.

    tokenizer: a path to a tokenizer.json, or an object with ``save_pretrained(folder)`` or ``save(folder)``; its ``end`` becomes
    the end-of-text id. dtype: of the tensors written, the parameters' own when not given.
    kind: of several families that express the same model (wav2vec 2.0 and HuBERT) the one wanted.
    say: called with a line about what stays behind, such as an objective that transformers has no class for: then the encoder is
    written alone.
    """
    folder, sequence = Path(folder), sequence or int(getattr(model.encoder, "sequence", 1024))  # type: ignore[arg-type]
    form = form_for(complete(settled(model, section), sequence), sequence, kind)
    family = form.family
    state = {name: tensor.detach().cpu().to(dtype or tensor.dtype) for name, tensor in model.named_parameters()}
    stored = next(iter(state.values())).dtype
    state |= {name: tensor.to(stored) for name, tensor in fixed_positions(model, sequence).items()}
    if not form.bare:
        _fold_output_scale(model, state)
    if family.typed and "embedding.segment.weight" not in state:
        state["embedding.segment.weight"] = torch.zeros(1, state["embedding.weight"].shape[1], dtype=stored)
    theirs, left = scatter(family, form.section, state, bare=form.bare)
    config = _described(form, model, state, tokenizer, sequence) | {"torch_dtype": str(stored).removeprefix("torch.")}
    if left and say is not None:
        say(f"{config['architectures'][0]} has no place for {said_of(left)}, which stayed behind")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    if getattr(model.objective, "causal", False) and "bos_token_id" in config:
        (folder / "generation_config.json").write_text(
            json.dumps({name: config[name] for name in ("bos_token_id", "eos_token_id")}, indent=2) + "\n", encoding="utf-8"
        )
    if family.preprocessor is not None:
        (folder / PROCESSOR).write_text(json.dumps(family.preprocessor(form.section), indent=2) + "\n", encoding="utf-8")
    _save_tensors(theirs, folder)
    if tokenizer is not None:
        _save_tokenizer(tokenizer, folder, sequence)
    return family.name


def _described(form: Form, model: nn.Module, state: Mapping[str, Tensor], tokenizer: Any, sequence: int) -> dict[str, Any]:
    """config.json's fields, those of the tokenizer and the class included."""
    family = form.family
    vocabulary = int(state["embedding.weight"].shape[0]) if "embedding.weight" in state else int(getattr(model.objective, "letters", 0))
    vocabulary = vocabulary or next(
        (len(tensor) for name, tensor in state.items() if name.startswith("towers.") and name.endswith(".embedding.weight")), 0
    )
    config: dict[str, Any] = {"architectures": [family.architecture]} | family.write(form.section, sequence, vocabulary)
    if form.bare:
        config["architectures"] = [family.bare]
    if "decoder_start_token_id" in config:  # the tokenizer's, where the recipe leaves it open
        config["decoder_start_token_id"] = int(getattr(model.objective, "start", config["decoder_start_token_id"]))
    end = getattr(tokenizer, "end", None)
    specials = getattr(tokenizer, "specials", {})
    begin = specials.get("begin", end)
    if tokenizer is not None or vocabulary:
        config = {"bos_token_id": begin, "eos_token_id": end, "pad_token_id": specials.get("pad")} | config
    if "text_config" in config and end is not None:
        config["text_config"] |= {"eos_token_id": end, "bos_token_id": begin}
    return config


def fixed_positions(model: nn.Module, sequence: int) -> dict[str, Tensor]:
    """Positions that are computed and added to vectors, as tensors under the names that learned ones would have."""
    found = {}
    for path, holder in model.named_modules():
        position = getattr(holder, "position", None)
        if isinstance(position, nn.Module) and getattr(position, "additive", False) and not any(True for _ in position.parameters()):
            grid, leading = getattr(position, "grid", ()), int(getattr(position, "leading", 0))
            count = leading + prod(grid) if grid else getattr(holder, "within", getattr(holder, "longest", sequence))
            found[f"{path}.position.weight"] = position(torch.arange(count)[None])[0].detach()
    return found


def settled(model: nn.Module, section: Any) -> Section:
    """The section with what the data decided: knobs left open that the built parts know (``settled``), such as the number of classes."""
    found: Section = dict(section) if isinstance(section, dict) else dict(plain(section))
    for name in SLOTS:
        part = getattr(model, name)
        if hasattr(part, "settled"):
            own = {"name": found[name]} if isinstance(found[name], str) else dict(found[name])
            found[name] = own | {knob: value for knob, value in part.settled().items() if own.get(knob) is None}
    return found


class _Look:
    """A built part for another to look at, without becoming its child."""

    def __init__(self, part: Any):
        self._held = (part,)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._held[0], name)


def expected_shapes(section: Section, *, sequence: int, vocabulary: int | None) -> dict[str, tuple[int, ...]]:
    """Name and shape of every parameter of the model that the section describes; nothing is allocated."""
    width = section["width"]
    linear = specs(section, "encoder").knobs["linear"]
    wiring = {
        "width": width,
        "sequence": sequence,
        "vocabulary": vocabulary,
        "specials": SPECIALS,
        "fields": {},
        "linear": linear,
        "memory_width": width,
    }
    towers = section.get("towers") or {}
    with torch.device("meta"):
        parts = {name: specs(section, name).build(**wiring) for name in ("embedding", "encoder", *BEHIND) if section.get(name) is not None}
        for name, tower in towers.items():
            own = wiring | {"width": tower.get("width") or width}
            parts |= {f"towers.{name}.{component}": specs(tower, component).build(**own) for component in ("embedding", "encoder")}
        beside = {"embedding": _Look(parts["embedding"]), "decoder_width": getattr(parts.get("decoder"), "width", width)}
        parts["objective"] = specs(section, "objective").build(
            **wiring, **beside, tower_widths={name: tower.get("width") or width for name, tower in towers.items()}
        )
    return {f"{name}.{path}": tuple(p.shape) for name, module in parts.items() for path, p in module.named_parameters()}


def _fold_output_scale(model: nn.Module, state: dict[str, Tensor]) -> None:
    """A factor on what the head reads goes into the head's weights, which only an untied head has to itself."""
    scale, name = getattr(model.objective, "output_scale", 1.0), f"objective.{getattr(model.objective, 'reads_scaled', 'head')}.weight"
    if scale == 1.0:
        return
    if name not in state:
        raise UserError(
            f"this model multiplies its logits by {scale:g} and its head is tied to the embedding, which no Hugging Face family expresses"
        )
    state[name] = state[name] * scale


def _config(folder: Path) -> Mapping[str, Any]:
    path = folder / "config.json"
    if not path.is_file():
        raise UserError(f"{folder}: holds no config.json")
    return _json(path)


def _json(path: Path) -> dict[str, Any]:
    """The object that a file holds. UserError where it holds something else."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not JSON: {error}") from None
    if not isinstance(found, dict):
        raise UserError(f"{path}: wants a JSON object, and holds {shown(found)}")
    return found


def _tensors(folder: Path) -> dict[str, Tensor]:
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        held = _json(index).get("weight_map")
        if not isinstance(held, dict) or not held or not all(isinstance(name, str) for name in held.values()):
            raise UserError(f"{index}: wants a weight_map that says which file holds each tensor")
        files = sorted(set(held.values()))
    elif (folder / "model.safetensors").is_file():
        files = ["model.safetensors"]
    elif pickled := sorted(path.name for pattern in ("*.bin", "*.pt", "*.pth") for path in folder.glob(pattern)):
        raise UserError(
            f"{folder}: holds pickled weights ({pickled[0]}), which can run code and are not opened; save them as safetensors first"
        )
    else:
        raise UserError(f"{folder}: holds no model.safetensors")
    found: dict[str, Tensor] = {}
    for name in files:
        try:
            with safe_open(folder / name, framework="pt") as handle:
                found |= {key: handle.get_tensor(key) for key in handle.keys()}  # noqa: SIM118 (not a mapping)
        except (SafetensorError, OSError) as error:
            raise UserError(f"{folder / name}: cannot be read as safetensors: {error}") from None
    return found


def _save_tensors(theirs: dict[str, Tensor], folder: Path) -> None:
    """One file, or shards with an index where it would be large."""
    shards: list[dict[str, Tensor]] = [{}]
    for name, tensor in theirs.items():
        if shards[-1] and sum(item.nbytes for item in shards[-1].values()) + tensor.nbytes > SHARD_BYTES:
            shards.append({})
        shards[-1][name] = tensor
    if len(shards) == 1:
        save_file(shards[0], folder / "model.safetensors", metadata={"format": "pt"})
        return
    names = [f"model-{number:05d}-of-{len(shards):05d}.safetensors" for number in range(1, len(shards) + 1)]
    for name, shard in zip(names, shards, strict=True):
        save_file(shard, folder / name, metadata={"format": "pt"})
    index = {
        "metadata": {"total_size": sum(item.nbytes for item in theirs.values())},
        "weight_map": {key: name for name, shard in zip(names, shards, strict=True) for key in shard},
    }
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _save_tokenizer(tokenizer: Any, folder: Path, sequence: int) -> None:
    if hasattr(tokenizer, "save_pretrained"):
        tokenizer.save_pretrained(folder)
    elif hasattr(tokenizer, "save"):
        getattr(tokenizer, "export", tokenizer.save)(folder)
    else:
        target = folder / "tokenizer.json"
        if Path(tokenizer).resolve() != target.resolve():
            shutil.copyfile(tokenizer, target)
        settings = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": sequence}
        (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")

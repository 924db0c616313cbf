"""What a prompt is to a run's model: the ids that it continues."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from ..core.errors import UserError
from ..core.framing import opened

if TYPE_CHECKING:
    from .run import Run


def prompt_ids(run: Run, prompt: str) -> list[int]:
    """The prompt's ids, behind what documents are opened with. Raises UserError for an empty one where nothing opens them."""
    return [*opened(run.tokenizer), *run.tokenizer.encode([prompt])[0].tolist()] or _nothing(run)


def writes(objective: Any) -> bool:
    """Whether a model of the objective continues a prompt."""
    return hasattr(objective, "writer") or bool(getattr(objective, "causal", False) and hasattr(objective, "logits"))


def _nothing(run: Run) -> list[int]:
    """What an empty prompt is where documents have no first token of their own: the end of the one before, if any was seen behind one."""
    datas = [run.section.data, *(stage.data for stage in run.section.stages if stage.data is not None)]
    seen = any(data.pack.knobs.get("attend", "document") == "row" for data in datas) or _from_elsewhere(run.parents)
    if writes(run.model.objective) and not seen:  # what cannot is refused where it would write
        raise UserError(
            "an empty prompt begins nothing: the tokenizer has no token that opens a document, and this run's documents do not see the end "
            "of the one before; give the first words"
        )
    return [run.tokenizer.end]


def _from_elsewhere(parents: Iterable[Mapping[str, Any]]) -> bool:
    """Whether the weights were trained outside first, where rows commonly hold documents one after another."""
    return any(parent.get("kind") == "hugging_face" or _from_elsewhere(parent.get("parents") or []) for parent in parents)

"""What a prompt is to a run's model: the ids that it continues; and the prompts that evaluations continue."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from ..core.errors import UserError
from ..core.evaluating import evaluating
from ..core.framing import opened

if TYPE_CHECKING:
    from .run import Run


def prompt_ids(run: Run, prompt: str) -> list[int]:
    """The prompt's ids, behind what documents are opened with. Raises UserError for an empty one where nothing opens them."""
    return [*opened(run.tokenizer), *run.tokenizer.encode([prompt])[0].tolist()] or _nothing(run)


def writes(objective: Any) -> bool:
    """Whether a model of the objective continues a prompt."""
    return hasattr(objective, "writer") or bool(getattr(objective, "causal", False) and hasattr(objective, "logits"))


def sample_prompts(run: Run) -> list[dict[str, str]]:
    """The recipe's evaluation prompts, continued; none in a stage whose objective writes no text, where another's may."""
    settings, objective = run.section.evaluate, run.model.objective
    if run.layout.ranks > 1:
        return []
    if settings.prompts and not writes(objective) and any(stage.objective is not None for stage in run.section.stages[1:]):
        run.program.hear(f"{type(objective).__name__} writes no text: evaluate.prompts are left out in this stage")
        return []
    with evaluating(run.model):
        return [
            {"prompt": prompt, "text": "".join(run.generate(prompt, tokens=settings.prompt_tokens, temperature=0.8, top_p=0.95))}
            for prompt in settings.prompts
        ]


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

"""Every objective's own way of writing: speculation gives the greedy text in fewer forwards, unmasking fills, others are refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from ingot.core.errors import UserError
from ingot.core.resolve import spec
from ingot.model.generate import generate
from ingot.model.graph import Model
from ingot.model.write import WRITERS, Manner, write

LAYER = {"name": "transformer", "depth": 1, "mixer": {"name": "attention", "heads": 2}}


def build(objective: str, position: str | None = None, **knobs: Any) -> Model:
    wiring = {"width": 16, "vocabulary": 40, "sequence": 24, "linear": spec("nn.linear", "dense"), "specials": {"end": 0, "mask": 1}}
    model = Model(
        embedding=spec("nn.embedding", "token", position=position).build(**wiring),
        encoder=spec("model.encoder", "transformer", depth=2, mixer={"name": "attention", "heads": 2}, dropout=0.5).build(**wiring),
        objective=spec("objective", objective, **knobs).build(**wiring),
    ).double()
    model.compute_dtype = torch.float64
    spec("model.init", "normal", std=0.3).build().apply(model, 0)
    return model


def forwards(model: Model) -> list[int]:
    calls: list[int] = []
    model.encoder.blocks[0].register_forward_hook(lambda *_: calls.append(1))  # type: ignore[union-attr]
    return calls


def test_every_writer_that_a_part_names_is_there() -> None:
    for name in ("causal_lm", "multi_token", "masked_diffusion"):
        model = build(name, **({"heads": 2, "layer": LAYER} if name == "multi_token" else {}))
        assert getattr(model.objective, "writer", "token_by_token") in WRITERS


def test_several_tokens_at_a_time_are_the_greedy_text() -> None:
    model = build("multi_token", heads=4, layer=LAYER)
    rows = (torch.arange(24) % 4 + 3)[None].expand(4, -1)  # easy to look ahead in
    given = model.objective.prepare({"tokens": rows, "rows": torch.arange(4), "key": torch.tensor(1)})
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.02)
    for _ in range(30):
        optimizer.zero_grad()
        sum(loss.sum() for loss in model.eval()(given).values()).backward()
        optimizer.step()
    calls = forwards(model)
    for prompt, end in (([3, 4, 5], None), ([9, 9, 21], None), ([4], 6)):
        wanted = list(generate(model, prompt, max_new=20, temperature=0, end=end))
        plain = len(calls)
        assert list(write(model, prompt, Manner(20, temperature=0, end=end))) == wanted
        if prompt == [3, 4, 5]:
            assert plain == 20 and len(calls) - plain <= 10
        calls.clear()


def test_drawn_tokens_come_one_by_one() -> None:
    model = build("multi_token", heads=3, layer=LAYER)
    manner = Manner(12, temperature=1.5, top_k=20, top_p=0.95, seed=3)
    wanted = list(generate(model, [3, 4], max_new=12, temperature=1.5, top_k=20, top_p=0.95, seed=3))
    assert list(write(model, [3, 4], manner)) == wanted


@pytest.mark.parametrize(("passes", "expected"), [(None, 10), (3, 3), (99, 10)])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_unmasking_fills_in_passes(passes: int | None, expected: int, temperature: float) -> None:
    model = build("masked_diffusion")
    calls = forwards(model)
    manner = Manner(10, temperature=temperature, seed=1, passes=passes)
    found = list(write(model, [5, 6, 7], manner))
    assert len(found) == 10 and 1 not in found and len(calls) == expected
    assert found == list(write(model, [5, 6, 7], manner))
    other = list(write(model, [5, 6, 7], Manner(10, temperature=temperature, seed=2, passes=passes)))
    assert (other == found) == (temperature == 0)


def test_unmasked_text_ends_before_the_end() -> None:
    model = build("masked_diffusion")
    found = list(write(model, [5, 6], Manner(10, seed=1)))
    assert list(write(model, [5, 6], Manner(10, seed=1, end=found[4]))) == found[: found.index(found[4])]


def test_unmasking_draws_only_from_what_is_allowed() -> None:
    model = build("masked_diffusion")
    greedy = list(write(model, [5, 6], Manner(1, temperature=0)))
    assert all(list(write(model, [5, 6], Manner(1, seed=seed, top_k=1))) == greedy for seed in range(8))
    assert len({tuple(write(model, [5, 6], Manner(1, seed=seed, temperature=3.0))) for seed in range(8)}) > 1


@pytest.mark.parametrize("name", ["causal_lm", "multi_token", "masked_diffusion"])
def test_the_mode_of_every_module_comes_back(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where one part was set to evaluate by itself, and where writing fails half-way."""
    model = build(name, **({"heads": 3, "layer": LAYER} if name == "multi_token" else {})).train()
    model.embedding.eval()
    modes = [module.training for module in model.modules()]
    list(write(model, [5, 6], Manner(4, temperature=0)))
    assert [module.training for module in model.modules()] == modes

    def broken(*_: Any) -> Any:
        raise RuntimeError("no memory")

    monkeypatch.setattr(model, "logits", broken)
    with pytest.raises(RuntimeError, match="no memory"):
        list(write(model, [5, 6], Manner(4, temperature=0)))
    assert [module.training for module in model.modules()] == modes


@pytest.mark.parametrize("name", ["causal_lm", "multi_token", "masked_diffusion"])
def test_learned_positions_that_end_too_early_are_refused(name: str) -> None:
    model = build(name, "learned", **({"heads": 3, "layer": LAYER} if name == "multi_token" else {}))
    fits = 24 - 4 + (name != "masked_diffusion")  # the last token written is not read again, but unmasked ones all are
    for temperature in (0.0, 1.0):
        list(write(model, [3, 4, 5, 6], Manner(fits, temperature=temperature)))
        with pytest.raises(UserError, match="24 positions"):
            list(write(model, [3, 4, 5, 6], Manner(fits + 1, temperature=temperature)))


def test_refusals() -> None:
    with pytest.raises(UserError, match="MaskedLM writes no text: only a causal language model"):
        list(write(build("masked_lm"), [3], Manner(2)))
    with pytest.raises(UserError, match="at least one token"):
        list(write(build("masked_diffusion"), [], Manner(2)))
    with pytest.raises(UserError, match="this one writes token by token"):
        list(write(build("causal_lm"), [3], Manner(2, passes=2)))

"""Common words to write a corpus of, and a recipe of a thousand weights on a corpus beside it, for races and ladders of many short runs."""

from __future__ import annotations

WORDS = [
    "the", "of", "and", "a", "to", "in", "is", "you", "that", "it", "he", "was", "for", "on", "are", "as", "with", "his",
    "they", "at", "be", "this", "have", "from", "or", "one", "had", "by", "word", "but", "not", "what", "all", "were", "we", "when",
]  # fmt: skip


def small_recipe(batch: int = 256, hooks: str = "[clip]", rows: int = 16, micro_rows: int = 8) -> str:
    """YAML. batch: tokens of a step. hooks: YAML too. rows: of an evaluation."""
    return f"""
# A model for tests.
data: {{train: {{name: text_files, paths: [corpus]}}, holdout: 0.3, tokenizer: bytes, sequence: 32}}
model:
  width: 16
  embedding: token
  encoder: {{name: transformer, depth: 1, mixer: {{name: attention, heads: 2}}, feedforward: gelu, norm: rms}}
  objective: causal_lm
stages:
  - {{budget: 20 steps, batch: {batch} tokens, optimizer: {{name: adamw, lr: 0.01}}, schedule: {{lr: {{name: cosine, warmup: 5%, final: 0}}}}, hooks: {hooks}}}
evaluate: {{rows: {rows}, batch_rows: {rows}}}
precision: fp32
compile: false
micro_rows: {micro_rows}
"""

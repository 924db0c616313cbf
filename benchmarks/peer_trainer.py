"""The peer: transformers' Trainer on a GPT-2 of given shape, over rows that were tokenized beforehand.

Speaks a small protocol: arguments in, one JSON object as the last line of standard output. Start-up counts: the clock starts at
the first line of this file.
"""

from __future__ import annotations

import time

BEGAN = time.perf_counter()

import argparse  # noqa: E402
import json  # noqa: E402
import math  # noqa: E402

import numpy as np  # noqa: E402
import torch  # noqa: E402
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainerCallback, TrainingArguments  # noqa: E402


class Rows(torch.utils.data.Dataset):
    """Rows of token ids as the Trainer wants them."""

    def __init__(self, path: str, limit: int | None = None):
        self.rows = np.load(path, mmap_mode="r")[:limit]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        ids = torch.from_numpy(np.asarray(self.rows[index]).astype(np.int64))
        return {"input_ids": ids, "labels": ids}


class Clock(TrainerCallback):
    """Stops after `seconds` of process time, and records each step's time and loss."""

    def __init__(self, seconds: float):
        self.seconds, self.times = seconds, []

    def on_step_end(self, args, state, control, **more):
        self.times.append(time.perf_counter())
        if time.perf_counter() - BEGAN >= self.seconds:
            control.should_training_stop = True
        return control


def main() -> None:
    parser = argparse.ArgumentParser()
    for name, kind, default in [
        ("rows", str, None),
        ("layers", int, 6),
        ("width", int, 384),
        ("heads", int, 6),
        ("vocabulary", int, 8192),
        ("batch", int, 16),
        ("lr", float, 6e-4),
        ("steps", int, 10**7),
        ("seconds", float, 1e9),
        ("seed", int, 0),
        ("warmup", float, 0.02),
        ("weight-decay", float, 0.1),
        ("output", str, "/tmp/peer"),
    ]:
        parser.add_argument(f"--{name}", type=kind, default=default)
    parser.add_argument("--validation", nargs="*", default=[], help="rows that are judged at the end, several files")
    parser.add_argument("--validation-bytes", nargs="*", type=float, default=[], help="what each counts")
    parser.add_argument("--fp32", action="store_true")
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    rows = Rows(options.rows)
    config = GPT2Config(
        vocab_size=options.vocabulary,
        n_positions=rows.rows.shape[1],
        n_embd=options.width,
        n_layer=options.layers,
        n_head=options.heads,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=0,
        eos_token_id=0,
    )
    model = GPT2LMHeadModel(config)
    clock = Clock(options.seconds)
    optimizer = torch.optim.AdamW(model.parameters(), lr=options.lr, betas=(0.9, 0.95), weight_decay=options.weight_decay, fused=True)

    def share(step: int) -> float:
        """Progress through the binding budget: steps, or process time."""
        return min(1.0, max((step + 1) / options.steps, (time.perf_counter() - BEGAN) / options.seconds))

    def factor(step: int) -> float:
        done = share(step)
        return min(done / options.warmup, (1 + math.cos(math.pi * done)) / 2) if options.warmup else 1.0

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    arguments = TrainingArguments(
        output_dir=options.output,
        max_steps=options.steps,
        per_device_train_batch_size=options.batch,
        bf16=not options.fp32,
        use_cpu=True,
        logging_steps=20,
        save_strategy="no",
        report_to=[],
        dataloader_num_workers=0,
        seed=options.seed,
        disable_tqdm=True,
        max_grad_norm=1.0,
    )
    trainer = Trainer(model=model, args=arguments, train_dataset=rows, optimizers=(optimizer, schedule), callbacks=[clock])
    trainer.train()
    trained = time.perf_counter() - BEGAN
    losses = [(item["step"], item["loss"]) for item in trainer.state.log_history if "loss" in item]
    steps = np.diff(clock.times)
    result = {
        "seconds": trained,
        "steps": trainer.state.global_step,
        "tokens": trainer.state.global_step * options.batch * rows.rows.shape[1],
        "parameters": model.num_parameters(),
        "median_step_seconds": float(np.median(steps)) if len(steps) else None,
        "losses": losses,
    }
    result["bits_per_byte"] = [
        bits_per_byte(model, Rows(path), size) for path, size in zip(options.validation, options.validation_bytes, strict=True)
    ]
    print(json.dumps(result))


def bits_per_byte(model: GPT2LMHeadModel, rows: Rows, size: float) -> float:
    """Sum of next-token losses over the validation rows, in bits, per UTF-8 byte of the scored tokens."""
    model.eval()
    total = 0.0
    with torch.no_grad():
        for start in range(0, len(rows), 16):
            ids = torch.from_numpy(np.asarray(rows.rows[start : start + 16]).astype(np.int64))
            logits = model(input_ids=ids).logits[:, :-1].float()
            total += float(torch.nn.functional.cross_entropy(logits.reshape(-1, logits.shape[-1]), ids[:, 1:].reshape(-1), reduction="sum"))
    return total / math.log(2) / size


if __name__ == "__main__":
    main()

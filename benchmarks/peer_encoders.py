"""The peer: transformers' Trainer on a ViT or a HuBERT of given shape, in bf16 on the CPU; its data lie ready in memory.

Arguments in, one JSON object as the last line of standard output. HuBERT has no pre-training head in transformers: the encoder with
its own masking is given one, a product with a matrix of units and cross-entropy over the masked frames, which is what Ingot computes too.
"""

from __future__ import annotations

import time

BEGAN = time.perf_counter()

import argparse  # noqa: E402
import json  # noqa: E402
from typing import Any  # noqa: E402

import numpy as np  # noqa: E402
import torch  # noqa: E402
from peer_trainer import Clock  # noqa: E402
from transformers import HubertConfig, HubertModel, Trainer, TrainingArguments, ViTConfig, ViTForImageClassification  # noqa: E402


class Units(torch.nn.Module):
    """A HuBERT that predicts units of its masked frames."""

    def __init__(self, config: HubertConfig, units: int):
        super().__init__()
        self.encoder, self.head = HubertModel(config), torch.nn.Linear(config.hidden_size, units)

    def forward(self, input_values: torch.Tensor, mask_time_indices: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        h = self.encoder(input_values, mask_time_indices=mask_time_indices).last_hidden_state
        return {"loss": torch.nn.functional.cross_entropy(self.head(h[mask_time_indices]).float(), labels[mask_time_indices])}


class Kept(torch.utils.data.Dataset):
    """Rows made once: random values cost as much to train on as real ones."""

    def __init__(self, options: argparse.Namespace, frames: int):
        draw = np.random.default_rng(0)
        self.kind, count = options.kind, 256
        if options.kind == "vit":
            self.values = draw.standard_normal((count, 3, options.size, options.size), dtype=np.float32)
        else:
            self.values = draw.standard_normal((count, options.samples), dtype=np.float32)
            self.masks = draw.random((count, frames)) < 0.5
            self.units = draw.integers(0, options.classes, (count, frames))
        self.labels = draw.integers(0, options.classes, count)

    def __len__(self) -> int:
        return 10**6

    def __getitem__(self, index: int) -> dict[str, Any]:
        at = index % len(self.values)
        if self.kind == "vit":
            return {"pixel_values": torch.from_numpy(self.values[at]), "labels": int(self.labels[at])}
        return {
            "input_values": torch.from_numpy(self.values[at]),
            "mask_time_indices": torch.from_numpy(self.masks[at]),
            "labels": torch.from_numpy(self.units[at]),
        }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("kind", choices=["vit", "hubert"])
    for name, default in [
        ("width", 384),
        ("layers", 6),
        ("heads", 6),
        ("batch", 32),
        ("steps", 20),
        ("classes", 10),
        ("size", 32),
        ("patch", 4),
        ("samples", 16000),
        ("channels", 512),
    ]:
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--precision", choices=("bf16", "fp32"), default="bf16")
    options = parser.parse_args()
    torch.manual_seed(0)
    shape = {
        "hidden_size": options.width,
        "num_hidden_layers": options.layers,
        "num_attention_heads": options.heads,
        "intermediate_size": 4 * options.width,
        "hidden_act": "gelu",
    }
    model: torch.nn.Module
    frames = 0
    if options.kind == "vit":
        model = ViTForImageClassification(ViTConfig(**shape, image_size=options.size, patch_size=options.patch, num_labels=options.classes))
    else:
        config = HubertConfig(
            **shape,
            conv_dim=[options.channels] * 7,
            hidden_dropout=0.0,
            attention_dropout=0.0,
            activation_dropout=0.0,
            feat_proj_dropout=0.0,
            layerdrop=0.0,
            num_conv_pos_embeddings=32,
            num_conv_pos_embedding_groups=16,
        )
        model = Units(config, options.classes)
        frames = int(model.encoder._get_feat_extract_output_lengths(options.samples))
    clock = Clock(1e9)
    arguments = TrainingArguments(
        output_dir="/tmp/peer",
        max_steps=options.steps,
        per_device_train_batch_size=options.batch,
        bf16=options.precision == "bf16",
        use_cpu=True,
        logging_steps=20,
        save_strategy="no",
        report_to=[],
        dataloader_num_workers=0,
        disable_tqdm=True,
        max_grad_norm=1.0,
        learning_rate=5e-4,
        remove_unused_columns=False,
    )
    trainer = Trainer(
        model=model,
        args=arguments,
        train_dataset=Kept(options, frames),
        callbacks=[clock],
        optimizers=(torch.optim.AdamW(model.parameters(), lr=5e-4, fused=True), None),
    )
    trainer.train()
    print(
        json.dumps(
            {
                "seconds": time.perf_counter() - BEGAN,
                "steps": trainer.state.global_step,
                "median_step_seconds": float(np.median(np.diff(clock.times)[2:])),
                "parameters": sum(parameter.numel() for parameter in model.parameters()),
            }
        )
    )


if __name__ == "__main__":
    main()

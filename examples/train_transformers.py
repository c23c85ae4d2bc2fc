"""Trains a small GPT-2, byte by byte, on the text of this project's README with the Hugging Face Trainer.

    python examples/train_transformers.py [--steps 200]

The weights start at random; nothing is downloaded.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import torch
import transformers

import fastopt

LENGTH = 64
README = Path(__file__).parent.parent / "README.md"


def windows(text: bytes) -> list[dict[str, torch.Tensor]]:
    """Overlapping pieces of the text; the language model shifts its labels itself."""
    tokens = torch.tensor(list(text))
    return [{"input_ids": piece, "labels": piece} for piece in tokens.unfold(0, LENGTH, LENGTH // 4)]


def main(arguments: list[str] | None = None) -> list[float]:
    """Returns the losses."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=200)
    options = parser.parse_args(arguments)
    transformers.set_seed(0)
    config = transformers.GPT2Config(
        vocab_size=256, n_positions=LENGTH, n_embd=128, n_layer=2, n_head=4, bos_token_id=0, eos_token_id=0
    )
    model = fastopt.nn.convert(transformers.GPT2LMHeadModel(config))  # converts its dropout
    with tempfile.TemporaryDirectory() as folder:
        trainer = transformers.Trainer(
            model=model,
            args=transformers.TrainingArguments(
                output_dir=folder,
                max_steps=options.steps,
                per_device_train_batch_size=16,
                learning_rate=3e-3,
                weight_decay=0.05,
                warmup_steps=20,
                logging_steps=20,
                save_strategy="no",
                report_to="none",
                use_cpu=True,
                dataloader_pin_memory=False,
            ),
            train_dataset=windows(README.read_bytes()),
            optimizer_cls_and_kwargs=(fastopt.AdamW, {"lr": 3e-3, "betas": (0.9, 0.95)}),
        )
        trainer.train()
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


if __name__ == "__main__":
    main()

"""Models of other packages, made from their configurations: nothing is downloaded."""

from __future__ import annotations

import importlib
from functools import cache
from typing import Any

from torch import Tensor, nn

CLASSES, WORDS = 10, 2048
GPT2, BERT = "transformers.models.gpt2.modeling_gpt2", "transformers.models.bert.modeling_bert"


@cache
def unusable(module: str) -> str:
    """Why a module such as "timm" cannot be used here; "" if it can."""
    package = module.partition(".")[0]
    try:
        importlib.import_module(module)
    except Exception as error:  # of any type: torchvision built for another torch raises RuntimeError
        if isinstance(error, ModuleNotFoundError) and error.name == package:
            return f"{package} is not installed"
        return f"{package} cannot be imported: {(str(error).splitlines() or ['?'])[0]}"
    return ""


def torchvision(name: str) -> nn.Module:
    return importlib.import_module("torchvision").models.get_model(name, num_classes=CLASSES)


def timm(name: str, **more: Any) -> nn.Module:
    return importlib.import_module("timm").create_model(name, num_classes=CLASSES, **more)


class Logits(nn.Module):
    """A model of transformers that returns only its logits."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor) -> Tensor:
        return self.model(tokens).logits


def gpt2() -> nn.Module:
    """GPT-2 with 2 layers of width 128."""
    here = importlib.import_module(GPT2)
    words = {"vocab_size": WORDS, "bos_token_id": None, "eos_token_id": None}
    config = here.GPT2Config(n_positions=64, n_embd=128, n_layer=2, n_head=4, use_cache=False, **words)
    return Logits(here.GPT2LMHeadModel(config))


def bert() -> nn.Module:
    """BERT of the published size "tiny", with a smaller vocabulary: 2 layers of width 128."""
    here = importlib.import_module(BERT)
    sizes = {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 512}
    return Logits(here.BertForMaskedLM(here.BertConfig(vocab_size=WORDS, **sizes)))

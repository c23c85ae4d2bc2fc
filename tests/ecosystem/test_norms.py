"""convert on norms of Hugging Face, timm and torchvision: what is taken, and that results stay the same."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn
from torch.testing import assert_close

import fastopt.nn

pytestmark = pytest.mark.ecosystem

SIZES = {"hidden_size": 32, "num_hidden_layers": 1, "vocab_size": 64, "intermediate_size": 64, "head_dim": 8}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2}
T5 = {"d_model": 32, "d_ff": 64, "num_layers": 1, "num_heads": 2, "d_kv": 16, "vocab_size": 64}
DECODERS = ["Llama", "Mistral", "Qwen2", "Qwen3", "Gemma", "Gemma2", "Olmo2"]


def changed(model: nn.Module) -> nn.Module:
    """Weights of norms as after training: initial ones would hide a missing weight."""
    torch.manual_seed(0)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return model.eval()


def compare(theirs: nn.Module, call: Any, dtype: torch.dtype) -> None:
    ours = fastopt.nn.convert(copy.deepcopy(theirs))
    left = [row for row in fastopt.nn.report(ours).rows if row.state == "left"]
    assert not left
    tolerance = 1e-4 if dtype == torch.float32 else 0.05
    assert_close(call(ours), call(theirs), rtol=tolerance, atol=tolerance)
    fastopt.nn.revert(ours)
    assert [type(m) for m in ours.modules()] == [type(m) for m in theirs.modules()]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", [*DECODERS, "T5"])
def test_transformers(name: str, dtype: torch.dtype) -> None:
    transformers = pytest.importorskip("transformers")
    tokens = torch.randint(64, (2, 16), generator=torch.Generator().manual_seed(0))
    if name == "T5":
        model = changed(transformers.T5Model(transformers.T5Config(**T5))).to(dtype)
        compare(model, lambda m: m(input_ids=tokens, decoder_input_ids=tokens).last_hidden_state, dtype)
        return
    config = getattr(transformers, f"{name}Config")(**SIZES, **HEADS, pad_token_id=0)
    model = changed(getattr(transformers, f"{name}Model")(config)).to(dtype)
    compare(model, lambda m: m(tokens).last_hidden_state, dtype)


TIMM = [
    *["BatchNormAct2d", "FrozenBatchNormAct2d", "GroupNormAct", "GroupNorm1Act", "LayerNormAct", "LayerNormAct2d"],
    *["GroupNorm", "GroupNorm1", "LayerNorm", "LayerNorm2d", "RmsNorm"],
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("fast", [False, True])
@pytest.mark.parametrize("name", TIMM)
def test_timm(name: str, fast: bool, dtype: torch.dtype) -> None:
    from timm.layers import norm, norm_act

    model = changed(getattr(norm if hasattr(norm, name) else norm_act, name)(32)).to(dtype)
    if hasattr(model, "_fast_norm"):
        model._fast_norm = fast
    x = torch.randn(2, 32, 8, 32, generator=torch.Generator().manual_seed(0)).to(dtype)
    if hasattr(model, "running_var"):
        model.running_var.fill_(1.5)
    for part in (x, x.contiguous(memory_format=torch.channels_last)):
        compare(model, lambda m, part=part: m(part.clone()), dtype)
        compare(nn.Sequential(model, nn.ReLU()), lambda m, part=part: m(part.clone()), dtype)


def test_torchvision() -> None:
    from torchvision.models import convnext
    from torchvision.models.swin_transformer import swin_t

    block = nn.Sequential(convnext.LayerNorm2d(6), nn.GELU())
    x = torch.randn(2, 6, 5, 7, generator=torch.Generator().manual_seed(0))
    compare(changed(block), lambda m: m(x), torch.float32)
    image = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    compare(convnext.convnext_tiny().eval(), lambda m: m(image), torch.float32)
    report = fastopt.nn.report(fastopt.nn.convert(swin_t()))
    assert {row.layer for row in report.rows if row.state == "left"} == set()

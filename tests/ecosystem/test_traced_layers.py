"""fuse="trace" on layers of Hugging Face, timm and torch that add before a norm."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

import fastopt.nn
from residual_layers import passes_fixture

__all__ = ["passes_fixture"]
pytestmark = pytest.mark.ecosystem

SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "vocab_size": 64, "intermediate_size": 64}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8}
IDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
# Of each: the configuration, and the norms of a layer that take an addition.
MODELS: dict[str, tuple[dict[str, Any], int]] = {
    **dict.fromkeys(("Llama", "Mistral", "Qwen2", "Qwen3", "Gemma2"), ({**SIZES, **HEADS}, 1)),
    "GPTNeoX": ({**SIZES, "num_attention_heads": 4, "use_parallel_residual": False}, 1),
    "GPT2": ({"n_embd": 32, "n_layer": 2, "n_head": 4, "vocab_size": 64, "n_positions": 64}, 1),
    "Bert": ({**SIZES, "num_attention_heads": 4, "is_decoder": True}, 2),
}
DROPOUTS = ["resid_pdrop", "embd_pdrop", "attn_pdrop", "hidden_dropout_prob", "attention_probs_dropout_prob"]
TOKENS = torch.randint(3, 64, (2, 16), generator=torch.Generator().manual_seed(0))


def made(name: str, dtype: torch.dtype = torch.float32) -> Any:
    transformers = pytest.importorskip("transformers")
    config = getattr(transformers, f"{name}Config")(**MODELS[name][0], **IDS)
    for option in DROPOUTS:
        if hasattr(config, option):
            setattr(config, option, 0.0)
    cls = {"GPT2": "GPT2LMHeadModel", "Bert": "BertLMHeadModel"}.get(name, f"{name}ForCausalLM")
    torch.manual_seed(0)
    model = getattr(transformers, cls)(config)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return model.to(dtype)


def traced(model: nn.Module, *example: Any) -> nn.Module:
    return fastopt.nn.convert(copy.deepcopy(model), fuse="trace", example=example or (TOKENS,))


def assert_alike(theirs: Any, ours: Any, dtype: torch.dtype = torch.float32, **kwargs: Any) -> None:
    """Results and gradients agree to rounding."""
    found: list[list[Tensor]] = []
    for model in (theirs, ours):
        out = model(TOKENS, labels=TOKENS, **kwargs)
        out.loss.backward()
        found.append([out.logits.detach(), *(p.grad for p in model.parameters())])
        model.zero_grad()
    tolerance, noise = (1e-4, 1e-6) if dtype == torch.float32 else (0.04, 1e-4)  # gradients of a bias of keys are noise
    for mine, other in zip(found[1], found[0], strict=True):
        assert mine.dtype == other.dtype
        assert (mine - other).abs().max() <= tolerance * other.abs().max() + noise


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", MODELS)
def test_transformers(name: str, dtype: torch.dtype, passes: list[bool]) -> None:
    theirs = made(name, dtype)
    ours = traced(theirs)
    rows = [row for row in fastopt.nn.report(ours).rows if row.note == "with add before"]
    assert len(rows) == 2 * MODELS[name][1]
    for mode in (True, False):
        passes.clear()
        assert_alike(theirs.train(mode), ours.train(mode), dtype)
        assert passes == [True] * len(rows)
    # What a trainer passes on, and what it leaves away.
    passes.clear()
    assert_alike(theirs, ours, dtype, use_cache=False)
    mask = torch.ones_like(TOKENS)
    mask[0, 10:] = 0
    assert_alike(theirs, ours, dtype, attention_mask=mask)
    if name != "Bert":
        assert_alike(theirs, ours, dtype, num_items_in_batch=torch.tensor(30))
    assert passes == [True] * len(rows) * (2 + (name != "Bert"))
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    assert [type(m) for m in fastopt.nn.revert(ours).modules()] == [type(m) for m in theirs.modules()]


@pytest.mark.parametrize("name", ["Llama", "GPT2"])
def test_generate(name: str, passes: list[bool]) -> None:
    theirs = made(name).eval()
    ours = traced(theirs)
    passes.clear()
    for options in ({}, {"use_cache": False}, {"do_sample": True}):
        results = []
        for model in (theirs, ours):
            torch.manual_seed(3)
            mask = torch.ones_like(TOKENS)
            results.append(model.generate(TOKENS, attention_mask=mask, max_new_tokens=6, **options))
        assert torch.equal(*results)
    assert passes
    assert all(passes)


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("before", [False, True])
def test_gradient_checkpointing(before: bool, reentrant: bool, passes: list[bool]) -> None:
    theirs = made("Llama").train()
    options = {"use_reentrant": reentrant}
    if before:
        theirs.activation_checkpointing_enable(options)
    ours = traced(theirs)
    for model in (theirs, ours):
        if not before:
            model.activation_checkpointing_enable(options)
        model.enable_input_require_grads()
    passes.clear()
    assert_alike(theirs, ours, use_cache=False)
    assert passes == [True] * 4  # two layers, each of them twice


def test_hooks_on_norms() -> None:
    """They see the sum, and may change it."""
    theirs = made("Llama")
    ours = traced(theirs)
    seen: list[Tensor] = []
    for model in (theirs, ours):
        norm = model.model.layers[1].post_attention_layernorm
        norm.register_forward_hook(lambda m, args, out: seen.append(args[0].detach()) or out * 2)
    assert_alike(theirs, ours)
    assert_close(seen[1], seen[0])


@pytest.mark.parametrize("again", ["copy", "pickle"])
def test_copies(again: str, passes: list[bool]) -> None:
    import io

    theirs = made("Qwen3").eval()
    ours = traced(theirs)
    if again == "copy":
        copied = copy.deepcopy(ours)
    else:
        file = io.BytesIO()
        torch.save(ours, file)
        file.seek(0)
        copied = torch.load(file, weights_only=False)
    passes.clear()
    assert_alike(theirs, copied)
    assert passes == [True] * 2


def test_compiled(passes: list[bool]) -> None:
    torch._dynamo.reset()
    theirs = made("Llama").eval()
    ours = traced(theirs)
    passes.clear()
    results = [
        torch.compile(model, fullgraph=True, backend="aot_eager")(TOKENS, use_cache=False).logits
        for model in (theirs, ours)
    ]
    assert_close(*results, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_timm(dtype: torch.dtype, passes: list[bool]) -> None:
    from timm.models.vision_transformer import Block

    torch.manual_seed(0)
    theirs = nn.Sequential(Block(32, 4), Block(32, 4, init_values=0.5)).to(dtype)
    x = torch.randn(2, 10, 32, generator=torch.Generator().manual_seed(0)).to(dtype)
    ours = traced(theirs, x)
    assert sum(row.note == "with add before" for row in fastopt.nn.report(ours).rows) == 2
    passes.clear()
    for mode in (True, False):
        tolerance = 1e-5 if dtype == torch.float32 else 0.05
        assert_close(ours.train(mode)(x), theirs.train(mode)(x), rtol=tolerance, atol=tolerance)
    assert passes == [True] * 4


@pytest.mark.parametrize("norm_first", [False, True])
def test_torchs_encoder_layer_is_left(norm_first: bool) -> None:
    """Its forward asks for sizes of its input, which torch.fx cannot answer; the report tells."""
    theirs = nn.TransformerEncoderLayer(32, 4, 64, dropout=0.0, batch_first=True, norm_first=norm_first)
    x = torch.randn(2, 10, 32, generator=torch.Generator().manual_seed(0))
    ours: Any = traced(theirs, x)
    assert type(ours) is nn.TransformerEncoderLayer
    for mode in (True, False):
        assert_close(ours.train(mode)(x), theirs.train(mode)(x))

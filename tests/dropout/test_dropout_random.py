"""The source of masks: torch's generator, a given generator, or a seed."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch
from torch import Tensor

import fastopt.nn.functional as F
from dropout_cases import FAMILY, Family
from fastopt import nn
from support import assert_same_bits, running


def drawn(family: Family, generator: torch.Generator | None = None) -> Tensor:
    inputs = family.inputs(torch.float32)
    return family(*inputs, seed=None, generator=generator)


@pytest.mark.parametrize("family", FAMILY, ids=str)
def test_manual_seed_governs(family: Family) -> None:
    torch.manual_seed(1)
    first, second = drawn(family), drawn(family)
    assert not torch.equal(first, second), "successive calls differ"
    torch.manual_seed(1)
    assert_same_bits(drawn(family), first)
    assert_same_bits(drawn(family), second)
    torch.manual_seed(2)
    assert not torch.equal(drawn(family), first)


@pytest.mark.parametrize("family", FAMILY, ids=str)
def test_own_generator(family: Family) -> None:
    """A given generator draws what torch's would with the same seed, and torch's stays as it is."""
    state = torch.get_rng_state()
    ours = [drawn(family, torch.Generator().manual_seed(7)) for _ in range(2)]
    assert_same_bits(*ours)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(7)
    assert_same_bits(drawn(family), ours[0])


def test_state_saved_and_restored() -> None:
    state = torch.get_rng_state()
    first = drawn(FAMILY[0])
    torch.set_rng_state(state)
    assert_same_bits(drawn(FAMILY[0]), first)
    with torch.random.fork_rng():
        drawn(FAMILY[0])
    after = drawn(FAMILY[0])
    torch.set_rng_state(state)
    drawn(FAMILY[0])
    assert_same_bits(drawn(FAMILY[0]), after)


def test_two_layers_differ() -> None:
    torch.manual_seed(1)
    x = torch.ones(1000)
    one, other = nn.Dropout(0.5)(x), nn.Dropout(0.5)(x)
    assert 300 < int((one == other).sum()) < 700


@pytest.mark.parametrize("family", FAMILY, ids=str)
def test_same_draws_on_every_backend_and_thread_count(family: Family) -> None:
    found = []
    for way in [{"backend": "reference"}, {"threads": 1}, {"threads": 2}, {"isa": "baseline"}]:
        with running(**way):
            torch.manual_seed(4)
            found.append(drawn(family))
    for other in found[1:]:
        assert_same_bits(other, found[0])


@pytest.mark.parametrize("family", FAMILY, ids=str)
def test_seed_and_offset(family: Family) -> None:
    inputs = family.inputs(torch.float32)
    state = torch.get_rng_state()
    assert_same_bits(family(*inputs, seed=2**64 - 1), family(*inputs, seed=2**64 - 1))
    different = [family(*inputs, seed=s, offset=o) for s, o in [(0, 0), (1, 0), (0, 1), (2**63, 0), (0, 2**63)]]
    for i, one in enumerate(different):
        assert not any(torch.equal(one, other) for other in different[:i])
    assert torch.equal(torch.get_rng_state(), state), "nothing is drawn"


@pytest.mark.parametrize("family", FAMILY, ids=str)
def test_refused_seeds(family: Family) -> None:
    inputs = family.inputs(torch.float32)
    for wrong in (-1, 2**64, 1.5, "1"):
        with pytest.raises(ValueError, match=r"seed has to be an int from 0 to 2\*\*64 - 1, but got"):
            family(*inputs, seed=wrong)
        with pytest.raises(ValueError, match=r"offset has to be an int from 0 to 2\*\*64 - 1, but got"):
            family(*inputs, offset=wrong)
        with pytest.raises(ValueError, match="seed has to be"):
            family(*inputs, p=0.0, seed=wrong)
    with pytest.raises(TypeError, match=r"generator has to be a torch\.Generator, but got 3"):
        family(*inputs, seed=None, generator=3)
    with pytest.raises(ValueError, match="seed and generator exclude each other"):
        family(*inputs, seed=1, generator=torch.Generator())


def test_integers_of_numpy() -> None:
    expected = F.dropout_mask((4, 5), 0.5, seed=3, offset=1)
    assert torch.equal(F.dropout_mask((np.int64(4), 5), 0.5, seed=np.uint64(3), offset=np.int32(1)), expected)
    assert torch.equal(F.dropout(torch.ones(4, 5), 0.5, seed=np.int64(3), offset=np.int64(1)) != 0, expected)
    assert F.dropout_mask(np.int64(4), 0.5, seed=1).shape == (4,)


def test_the_mask_is_the_one_applied() -> None:
    x = torch.ones(3, 50, 4)
    for p in (0.1, 0.5, 1.0):
        mask = F.dropout_mask(x.shape, p, seed=3, offset=4)
        assert torch.equal(F.dropout(x, p, seed=3, offset=4) != 0, mask)
        channels = F.dropout_mask((3, 50), p, seed=3, offset=4)
        assert torch.equal(F.dropout1d(x, p, seed=3, offset=4) != 0, channels[..., None].expand(x.shape))
    assert F.dropout_mask(5, 0.0, seed=1).all()
    assert F.dropout_mask((), 0.5, seed=1).shape == ()
    assert F.dropout_mask((3, 0), 0.5, seed=1).shape == (3, 0)


def test_packed_mask() -> None:
    for n in (0, 1, 7, 8, 9, 1023, 1025):
        mask = F.dropout_mask((n,), 0.5, seed=n)
        packed = F.dropout_mask((n,), 0.5, seed=n, packed=True)
        unpacked = (packed[:, None] >> torch.arange(8) & 1).flatten().bool()
        assert packed.dtype == torch.uint8
        assert torch.equal(unpacked[:n], mask)
        assert not unpacked[n:].any()


def test_refused_masks() -> None:
    with pytest.raises(ValueError, match="dropout probability"):
        F.dropout_mask((3,), 1.5, seed=1)
    with pytest.raises(ValueError, match="seed has to be"):
        F.dropout_mask((3,), 0.5, seed=-1)
    with pytest.raises(ValueError, match="offset has to be"):
        F.dropout_mask((3,), 0.5, seed=1, offset=2**64)
    with pytest.raises(ValueError, match="negative"):
        F.dropout_mask((3, -1), 0.5, seed=1)


def test_many_python_threads() -> None:
    """Each thread draws masks that no other draw has."""
    torch.manual_seed(1)
    found: list[Tensor] = []

    def work() -> None:
        found.extend(F.dropout(torch.ones(128), 0.5) for _ in range(200))

    workers = [threading.Thread(target=work) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len({tuple(mask.tolist()) for mask in found}) == 800


def test_drawn_in_inference_mode_first() -> None:
    """The thread's own tensor, made at the first draw, still works after inference mode."""
    outcome = []

    def work() -> None:
        x = torch.ones(64)
        with torch.inference_mode():
            outcome.append(F.dropout(x, 0.5))
        outcome.append(F.dropout(x, 0.5))

    worker = threading.Thread(target=work)
    worker.start()
    worker.join()
    assert len(outcome) == 2

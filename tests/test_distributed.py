"""DTensor parameters: each process updates its shard, with the gradient laid out as the parameter is."""

import subprocess
import sys

import pytest
import torch.distributed

CODE = """
import os, sys, torch, fastopt
import torch.distributed as dist
import torch.multiprocessing as mp

def work(rank, file):
    from torch.distributed.device_mesh import init_device_mesh
    try:
        from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor
    except ImportError:  # torch 2.4
        from torch.distributed._tensor import DTensor, Replicate, Shard, distribute_tensor
        from torch.distributed._tensor.placement_types import Partial
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method="file://" + file, rank=rank, world_size=2)
    mesh = init_device_mesh("cpu", (2,))
    whole = torch.arange(24.0).reshape(6, 4)
    for placement in (Shard(0), Replicate()):
        for grads in ((placement,), (Partial(),) if placement.is_replicate() else (Shard(1),)):
            results = []
            for make in (fastopt.AdamW, torch.optim.AdamW):
                param = torch.nn.Parameter(distribute_tensor(whole.clone(), mesh, [placement]))
                optimizer = make([param], lr=0.1)
                for step in range(3):
                    if isinstance(grads[0], Partial):
                        param.grad = DTensor.from_local(whole * (rank + 1) - 9 * step, mesh, grads)
                    else:
                        param.grad = distribute_tensor(whole - 9.0 * step, mesh, grads)
                    optimizer.step()
                results.append(param.full_tensor().detach())
            torch.testing.assert_close(*results)
            assert not torch.equal(results[0], whole)
    # What needs sums over the whole parameter takes replicated ones only.
    for make in (fastopt.Adafactor, lambda p: fastopt.SGD(p, lr=0.1, max_grad_norm=1.0)):
        for shape in ((6, 4), (24,)):
            for placement in (Replicate(), Shard(0)):
                param = torch.nn.Parameter(distribute_tensor(whole.clone().view(shape), mesh, [placement]))
                param.grad = distribute_tensor(whole.view(shape) - 9.0, mesh, [placement])
                before = param.full_tensor().detach().clone()
                try:
                    make([param]).step()
                    assert placement.is_replicate() and not torch.equal(param.full_tensor(), before)
                except RuntimeError as error:
                    assert placement.is_shard() and "of which this process has a part" in str(error), error
                    assert torch.equal(param.full_tensor(), before)
    dist.destroy_process_group()

if __name__ == "__main__":
    file = sys.argv[1]
    mp.start_processes(work, (file,), nprocs=2, start_method="spawn")
    print("equal")
"""


@pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no distributed package")
def test_gradients_of_other_placements(tmp_path) -> None:
    script = tmp_path / "script.py"
    script.write_text(CODE)
    command = [sys.executable, str(script), str(tmp_path / "store")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout.strip() == "equal", done.stderr[-2000:]

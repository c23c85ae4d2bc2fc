"""What only a new process on a GPU shows: the first call of all, and what a report leaves to processes forked later."""

import pytest

from fresh_process import output
from gpu import REAL

pytestmark = pytest.mark.skipif(not REAL, reason="needs a GPU")

# A capture allows no call that may wait for the device. The first launch of a kernel loads its machine code.
CAPTURED = """
import torch, fastopt
import fastopt.nn.functional as F

x = torch.ones(1000, 8, device="cuda")
weight, mean = torch.ones(8, device="cuda"), torch.zeros(8, device="cuda")
torch.cuda.synchronize()
graph = torch.cuda.CUDAGraph()
with torch.cuda.graph(graph):
    out = {expression}
graph.replay()
torch.cuda.synchronize()
print(bool(out.isfinite().all()))
"""
FIRST_CALLS = {
    "dropout": "F.dropout(x, 0.5)",
    "batch_norm": "F.batch_norm(x, mean, weight, weight, mean, True)",
    "norm": "fastopt.get_total_norm([x, weight])",
}


@pytest.mark.parametrize("name", FIRST_CALLS)
def test_the_first_call_may_be_in_a_capture(name: str) -> None:
    assert output(CAPTURED.format(expression=FIRST_CALLS[name])) == "True"


FORKED = """
import os, torch, fastopt, warnings

warnings.simplefilter("ignore", DeprecationWarning)  # Python's, of threads in a process that is forked
assert isinstance(fastopt.info()["detected"]["cuda"], int)
child = os.fork()
if child == 0:
    try:
        ones = float(torch.ones(3, device="cuda").sum())
    finally:
        os._exit(0 if "ones" in vars() and ones == 3 else 1)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_a_process_forked_after_the_report_can_use_cuda() -> None:
    assert output(FORKED) == "0"

"""The runtime: the report, the switches, threads, processes, and the build."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import fastopt
from fastopt import _core, _runtime
from fresh_process import INFO, output, python
from support import INTAKES, ISAS, running, some_values

pytestmark = pytest.mark.slow


def test_info_of_this_process() -> None:
    info = fastopt.info()
    assert json.loads(json.dumps(info)) == info
    assert info["version"] == fastopt.__version__ == _core.__version__
    assert info["built"]["isa"][0] == "baseline"
    assert info["in_use"]["backend"] == "native"
    assert info["in_use"]["isa"] == info["detected"]["isa"][-1]
    assert info["in_use"]["intake"] == INTAKES[0]
    assert info["in_use"]["threads"] == torch.get_num_threads()
    assert info["detected"]["torch"] == torch.__version__
    assert info["notes"] == []


@pytest.mark.parametrize("isa", ISAS)
def test_forced_isa_runs(isa: str) -> None:
    """The name is compiled into the kernels' own file."""
    assert json.loads(output(INFO, FASTOPT_ISA=isa))["in_use"]["isa"] == isa


def test_forced_intake_and_backend() -> None:
    info = json.loads(output(INFO, FASTOPT_INTAKE="data_ptr"))
    assert info["in_use"]["intake"] == "data_ptr"
    assert any("exchange API off" in note for note in info["notes"]) == info["detected"]["exchange"]
    info = json.loads(output(INFO, FASTOPT_BACKEND="reference"))
    assert (info["in_use"]["backend"], info["in_use"]["isa"]) == ("reference", None)
    assert any("reference is in use" in note for note in info["notes"])


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("FASTOPT_ISA", "avx1024", "FASTOPT_ISA: unknown value 'avx1024'"),
        ("FASTOPT_INTAKE", "telepathy", "FASTOPT_INTAKE: unknown value 'telepathy'"),
        ("FASTOPT_BACKEND", "fortran", "FASTOPT_BACKEND: no backend 'fortran'"),
    ],
)
def test_unknown_values_of_switches(variable: str, value: str, message: str) -> None:
    done = python("import fastopt", **{variable: value})
    assert done.returncode != 0
    assert message in done.stderr


def test_isa_beyond_the_cpu() -> None:
    """On a CPU that has all ISAs, none may be refused."""
    for isa in fastopt.info()["built"]["isa"]:
        done = python(INFO, FASTOPT_ISA=isa)
        assert (done.returncode == 0) == (isa in ISAS)
        assert isa in ISAS or "this CPU cannot run" in done.stderr


HIDE = """
import sys
class Hide:
    def find_spec(self, name, path=None, target=None):
        if name == "fastopt._core":
            raise ImportError("hidden for a test")
sys.meta_path.insert(0, Hide())
"""


def test_missing_extension_falls_back_loudly() -> None:
    code = HIDE + "import warnings; warnings.simplefilter('always')\n" + INFO
    done = python(code)
    assert "RuntimeWarning: fastopt runs on its slow NumPy reference" in done.stderr
    info = json.loads(done.stdout)
    assert info["in_use"]["backend"] == "reference"
    assert info["built"] is None
    assert any("hidden for a test" in note for note in info["notes"])


def test_missing_extension_asked_for_is_an_error() -> None:
    done = python(HIDE + "import fastopt", FASTOPT_BACKEND="native")
    assert done.returncode != 0
    assert "ImportError: FASTOPT_BACKEND: no backend 'native': hidden for a test" in done.stderr


def test_missing_extension_trains() -> None:
    code = """
import torch, fastopt
p = torch.ones(5, requires_grad=True)
p.grad = torch.ones(5)
fastopt.SGD([p], lr=0.5).step()
print(p.tolist())
"""
    assert output(HIDE + code, FASTOPT_BACKEND="reference") == "[0.5, 0.5, 0.5, 0.5, 0.5]"


def test_command_line_reports_and_tests() -> None:
    done = subprocess.run([sys.executable, "-m", "fastopt"], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert "self-test: passed" in done.stdout
    for line in ("built:", "detected:", "in_use:", "openmp:"):
        assert line in done.stdout


STEP = """
p = torch.ones(1_000_000, requires_grad=True)
p.grad = torch.ones(1_000_000)
fastopt.SGD([p], lr=0.5).step()
torch.ones(1000, 1000) @ torch.ones(1000, 1000)
"""

RUNTIMES = """
import os
libraries = {os.path.realpath(line.split()[-1]) for line in open("/proc/self/maps") if "/" in line}
openmp = [l for l in libraries if any(n in os.path.basename(l) for n in ("libgomp", "libomp", "libiomp"))]
print(len(openmp), fastopt.info()["openmp"] and os.path.realpath(fastopt.info()["openmp"]) == openmp[0])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("imports", ["import torch, fastopt", "import fastopt, torch"])
def test_exactly_one_openmp_runtime(imports: str) -> None:
    """The process has torch's runtime and no other, whichever is imported first, and fastopt uses it."""
    assert output(imports + STEP + RUNTIMES) == "1 True"


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(("threads", "expected"), [(1, 0), (2, 1), (4, 3)])
def test_set_num_threads_is_obeyed(threads: int, expected: int) -> None:
    """A step starts exactly as many threads as torch was told to use."""
    code = f"""
import os, torch, fastopt
torch.set_num_threads(1)
p = torch.zeros(1_000_000, requires_grad=True)
p.grad = torch.zeros(1_000_000)
optimizer = fastopt.SGD([p], lr=0.5)
torch.set_num_threads({threads})
before = set(os.listdir("/proc/self/task"))
optimizer.step()
print(len(set(os.listdir("/proc/self/task")) - before), fastopt.info()["in_use"]["threads"])
"""
    assert output(code) == f"{expected} {threads}"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_forked_children_train() -> None:
    """OpenMP's threads do not survive a fork, and waiting for them would hang, so the child uses one thread."""
    code = """
import os, torch, fastopt
p = torch.ones(1_000_000, requires_grad=True)
p.grad = torch.ones(1_000_000)
optimizer = fastopt.SGD([p], lr=0.25)
optimizer.step()
child = os.fork()
if child == 0:
    optimizer.step()
    info = fastopt.info()
    torch.set_num_threads(1)  # torch's own operations would hang
    good = (p == 0.5).all() and info["in_use"]["threads"] == 1 and "forked" in info["notes"][0]
    os._exit(0 if good else 1)
_, status = os.waitpid(child, 0)
optimizer.step()
print(status, (p == 0.5).all().item(), fastopt.info()["in_use"]["threads"] > 1)
"""
    assert output(code) == "0 True True"


def test_flush_to_zero_reaches_every_thread() -> None:
    """Results do not depend on the thread count in torch's flush-denormal mode either."""
    with running(threads=2):  # workers must exist before the mode is set, or they would inherit it
        warm = torch.ones(100_000, requires_grad=True)
        warm.grad = torch.ones(100_000)
        fastopt.SGD([warm], lr=1.0).step()
    steps = []
    for threads in (1, 2):
        p = torch.full((3_000_000,), 1e-38, requires_grad=True)  # enough to give every worker a share
        p.grad = torch.full((3_000_000,), 9.5e-39)  # p, g and p - g are subnormal
        steps.append((threads, p, fastopt.SGD([p], lr=1.0)))
    if not torch.set_flush_denormal(True):
        pytest.skip("this CPU has no flush-to-zero mode")
    try:
        for threads, _, optimizer in steps:
            with running(threads=threads):
                optimizer.step()
    finally:
        torch.set_flush_denormal(False)
    (_, one, _), (_, other, _) = steps
    assert torch.equal(one, other)
    assert (one == 0).all()


@pytest.mark.skipif(shutil.which("nm") is None, reason="needs nm")
def test_kernels_share_no_code_between_isas() -> None:
    """Each ISA's object file exports only its table: no inline function that the linker could take from a wider ISA."""
    core = Path(_core.__file__)
    objects = list(Path(__file__).parents[2].glob("build/*/CMakeFiles/kernels_*.dir/**/*.o"))
    if not objects:
        pytest.skip(f"the build folder of {core.name} is not here")
    for path in objects:
        symbols = subprocess.run(
            ["nm", "--defined-only", "--extern-only", "--format=posix", path],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.splitlines()
        isa = path.parts[-4].removeprefix("kernels_").removesuffix(".dir")
        assert [line.split()[:2] for line in symbols] == [[f"fastopt_kernels_{isa}", "T"]]


def test_backends_can_be_switched_between_steps() -> None:
    param = some_values(70, torch.float32, seed=0).requires_grad_()
    twin = param.detach().clone().requires_grad_()
    one, other = fastopt.Adam([param]), fastopt.Adam([twin])
    for step in range(4):
        param.grad = twin.grad = some_values(70, torch.float32, seed=step)
        with running("native" if step % 2 else "reference"):
            one.step()
        other.step()
    assert torch.equal(param, twin)
    with pytest.raises(ImportError, match="no backend 'cobol'"):
        _runtime.use_backend("cobol")


def test_import_leaves_the_compiler_alone() -> None:
    """The compiler takes a second to import, and only compiled programs need it."""
    assert output("import sys, torch, fastopt; print('torch._dynamo' in sys.modules)") == "False"
    clip = "p = torch.ones(1, requires_grad=True); p.grad = torch.ones(1); fastopt.clip_grad_norm_(p, 1.0)"
    assert output(f"import sys, torch, fastopt; {clip}; print('torch._dynamo' in sys.modules)") == "False"

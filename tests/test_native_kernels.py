"""The kernels in a program of their own, without Python or torch, under AddressSanitizer and UBSan."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def tool(name):
    """A build tool of this environment, else of the system, else None."""
    return shutil.which(name, path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]))


def run(*command):
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.skipif(not (tool("cmake") and tool("c++")), reason="needs cmake and a C++ compiler")
def test_kernels_under_sanitizers(tmp_path):
    cmake = str(tool("cmake"))
    generator = ("-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={tool('ninja')}") if tool("ninja") else ()
    flags = ("-DOPTL_KERNEL_TEST=ON", "-DCMAKE_BUILD_TYPE=None", "-DCMAKE_CXX_FLAGS=-O1")
    run(cmake, "-S", str(ROOT), "-B", str(tmp_path), *generator, *flags)
    run(cmake, "--build", str(tmp_path), "--parallel", "2")
    told = run(str(tmp_path / "kernel_test"))
    assert "portable, 8 bytes: done" in told and "device, 8 bytes: done" in told  # device: CUDA's, played by the host

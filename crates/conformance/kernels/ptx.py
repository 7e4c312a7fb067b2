#!/usr/bin/env python3
"""Makes PTX of a CUDA C++ file, with NVIDIA's run-time compiler, which needs neither a GPU nor its driver:

    python3 -m pip install nvidia-cuda-nvrtc-cu12==12.1.105
    python3 crates/conformance/kernels/ptx.py crates/conformance/kernels/conformance.cu crates/cli/kernels/sha256.cu

An old compiler on purpose: a driver takes the PTX of every compiler that is no newer than itself.
"""

import ctypes
import importlib.util
import pathlib
import sys

OPTIONS = [b"--gpu-architecture=compute_60", b"--std=c++14"]


def library():
    found = importlib.util.find_spec("nvidia.cuda_nvrtc")
    root = pathlib.Path(list(found.submodule_search_locations)[0])
    return ctypes.CDLL(str(root / "lib" / "libnvrtc.so.12"))


def check(code, what):
    if code != 0:
        sys.exit(f"{what}: {code}")


def compile(nvrtc, source):
    program = ctypes.c_void_p()
    check(nvrtc.nvrtcCreateProgram(ctypes.byref(program), source.read_bytes(), source.name.encode(), 0, None, None), "nvrtcCreateProgram")
    options = (ctypes.c_char_p * len(OPTIONS))(*OPTIONS)
    compiled = nvrtc.nvrtcCompileProgram(program, len(OPTIONS), options)
    size = ctypes.c_size_t()
    nvrtc.nvrtcGetProgramLogSize(program, ctypes.byref(size))
    log = ctypes.create_string_buffer(size.value)
    nvrtc.nvrtcGetProgramLog(program, log)
    print(log.value.decode(), end="")
    check(compiled, "nvrtcCompileProgram")
    check(nvrtc.nvrtcGetPTXSize(program, ctypes.byref(size)), "nvrtcGetPTXSize")
    ptx = ctypes.create_string_buffer(size.value)
    check(nvrtc.nvrtcGetPTX(program, ptx), "nvrtcGetPTX")
    return ptx.value


for name in sys.argv[1:]:
    source = pathlib.Path(name)
    source.with_suffix(".ptx").write_bytes(compile(library(), source))

"""Compiles the stand-in device once and caches it: one plain compiler command, safe for many processes at once.

torch.utils.cpp_extension.load is not used: a process that dies while building leaves a lock file on which the next ones
hang for ever. Here the lock is flock's, which the kernel releases with its holder.
"""

import fcntl
import hashlib
import importlib.machinery
import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from types import ModuleType

import torch

SOURCES = Path(__file__).resolve().parent.parent / "csrc"
NAME = "_standin_mlu"


class NoCompiler(ImportError):
    """The stand-in cannot be built here."""


def compiler() -> str | None:
    """The C++ compiler to use (CXX, g++ or clang++), or None where there is none."""
    names = filter(None, (os.environ.get("CXX"), "g++", "clang++"))
    return next(filter(None, map(shutil.which, names)), None)


def cache_directory() -> Path:
    default = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "standin_mlu"
    return Path(os.environ.get("STANDIN_MLU_CACHE") or default)


def command(output: Path) -> list[str]:
    torch_root = Path(torch.__file__).parent
    return [
        compiler() or "g++", "-std=c++20", "-O1", "-fPIC", "-shared", "-fvisibility=hidden", "-w",
        f"-DTORCH_EXTENSION_NAME={NAME}", f"-D_GLIBCXX_USE_CXX11_ABI={int(torch._C._GLIBCXX_USE_CXX11_ABI)}",
        "-isystem", str(torch_root / "include"),
        "-isystem", str(torch_root / "include" / "torch" / "csrc" / "api" / "include"),
        "-isystem", sysconfig.get_paths()["include"],
        str(SOURCES / "module.cpp"), "-o", str(output),
        f"-L{torch_root / 'lib'}", f"-Wl,-rpath,{torch_root / 'lib'}",
        "-lc10", "-ltorch_cpu", "-ltorch", "-ltorch_python",
    ]  # fmt: skip


def library_path() -> Path:
    """Where the library for these sources, this torch and this Python lies once it is built."""
    key = hashlib.sha256()
    for source in sorted(SOURCES.iterdir()):
        key.update(source.name.encode() + source.read_bytes())
    # The command holds the paths of torch and Python, the ABI and the flags.
    key.update(repr((torch.__version__, sys.version, command(Path(NAME)))).encode())
    return cache_directory() / f"{NAME}-{key.hexdigest()[:20]}.so"


def build() -> Path:
    """Build the library unless it is there; returns its path. Other processes that want it wait for the first."""
    library = library_path()
    if library.exists():
        return library
    if compiler() is None:
        raise NoCompiler(
            "The stand-in MLU device is C++ and has to be compiled once, but no C++ compiler was found. "
            "Install g++ (or set CXX to a compiler); without one, the tests on the stand-in device cannot run."
        )
    library.parent.mkdir(parents=True, exist_ok=True)
    with open(library.with_suffix(".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not library.exists():
            unfinished = library.with_suffix(f".{os.getpid()}.tmp")
            print("Compiling the stand-in MLU device (once; about half a minute) ...", file=sys.stderr, flush=True)
            done = subprocess.run(command(unfinished), capture_output=True, text=True, check=False)
            if done.returncode != 0:
                unfinished.unlink(missing_ok=True)
                raise ImportError(f"The stand-in MLU does not compile with torch {torch.__version__}:\n{done.stderr}")
            os.replace(unfinished, library)
    return library


def load() -> ModuleType:
    """Build if needed, and import."""
    path = str(build())
    loader = importlib.machinery.ExtensionFileLoader(NAME, path)
    spec = importlib.util.spec_from_file_location(NAME, path, loader=loader)
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module

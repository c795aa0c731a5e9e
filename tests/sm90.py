"""Triton's kernels as machine code for compute capability 9.0, which needs no GPU: compiled and disassembled.

As a script it compiles what standard input describes, in a process that knows nothing of Triton's interpreter.
"""

from __future__ import annotations

import importlib
import json
import os
import re
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pytest

_INSTRUCTION = re.compile(r"/\*[0-9a-f]{4,}\*/\s+(@!?U?P\w+\s+)?([A-Z][A-Z0-9_.]*)(.*)")
_LABEL = re.compile(r"\s*(\.L\w+):")
_ALIGNED = [["tt.divisibility", 16]]  # as torch's memory is, and as Triton notes of a number that 16 divides


@dataclass(frozen=True)
class Kernel:
    """What to compile.

    Attributes:
        module, name: of the kernel.
        signature: Triton's type of each parameter that is not a constant, in their order: ``*fp32``, ``i32``.
        constants: the others.
        aligned: numbers among the parameters that 16 divides.
        options: of the launch.
    """

    module: str
    name: str
    signature: dict[str, str]
    constants: dict[str, Any]
    aligned: tuple[str, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class MachineCode:
    """A kernel's instructions in their order, each as its predicate (or nothing), its name and its operands."""

    instructions: list[tuple[str, str, str]]
    labels: dict[str, int]

    @classmethod
    def parse(cls, text: str) -> MachineCode:
        """Reads nvdisasm's listing."""
        instructions: list[tuple[str, str, str]] = []
        labels = {}
        for line in text.splitlines():
            if label := _LABEL.match(line):
                labels[label[1]] = len(instructions)
            if found := _INSTRUCTION.search(line):
                instructions.append((found[1] or "", found[2], found[3]))
        return cls(instructions, labels)

    def names(self) -> list[str]:
        """Returns the names of all instructions."""
        return [name for _, name, _ in self.instructions]

    def path_lengths(self) -> list[int]:
        """Returns how many instructions lie on each way from start to end, branches back and early ends left out."""
        found = []
        waiting = [(0, 0)]
        while waiting:
            index, count = waiting.pop()
            predicate, name, operands = self.instructions[index]
            following = [index + 1]
            if name == "EXIT" and not predicate:
                found.append(count + 1)
                continue
            if name == "BRA" and (target := re.search(r"\((\.L\w+)\)", operands)):
                place = self.labels[target[1]]
                following = following * bool(predicate) + [place] * (place > index)
            waiting.extend((place, count + 1) for place in following)
        return sorted(found)


def machine_code(kernels: list[Kernel], cache: Path) -> list[MachineCode]:
    """Compiles in a process of its own; ``cache`` is Triton's. Skips the test where Triton or its tools are missing."""
    pytest.importorskip("triton")
    if not (_tools() / "ptxas").exists() or not (_tools() / "nvdisasm").exists():
        pytest.skip("Triton brings no ptxas and nvdisasm here")
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, __file__],
        input=json.dumps([asdict(kernel) for kernel in kernels]),
        env={**environment, "TRITON_CACHE_DIR": str(cache)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return [MachineCode.parse(text) for text in json.loads(done.stdout)]


def _tools() -> Path:
    import triton

    return Path(triton.__file__).parent / "backends/nvidia/bin"


def _listing(kernel: Kernel) -> str:
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    function = getattr(importlib.import_module(kernel.module), kernel.name)
    types = {name: kernel.signature.get(name, "constexpr") for name in function.arg_names}
    aligned = {name for name, kind in types.items() if kind.startswith("*")} | set(kernel.aligned)
    source = ASTSource(
        fn=function,
        signature=types,
        constexprs=kernel.constants,
        attrs={(index,): _ALIGNED for index, name in enumerate(types) if name in aligned},
    )
    binary = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=kernel.options).asm["cubin"]
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(binary)
        file.flush()
        command = [str(_tools() / "nvdisasm"), "-c", file.name]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout


if __name__ == "__main__":
    print(json.dumps([_listing(Kernel(**each)) for each in json.load(sys.stdin)]))

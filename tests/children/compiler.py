"""What a process that compiles in a directory of its own is told of this CPU: to find out takes seconds of compiling.

torch tries whether the compiler knows the instructions of the CPU, in each new cache directory; any knows AVX2.
"""

from pathlib import Path


def has_avx2() -> bool:
    """Whether this is x86 with AVX2, as far as Linux says."""
    about = Path("/proc/cpuinfo")
    return about.exists() and " avx2 " in about.read_text("utf-8")


TOLD = {"TORCHINDUCTOR_VEC_ISA_OK": "1", "ATEN_CPU_CAPABILITY": "avx2"} if has_avx2() else {}

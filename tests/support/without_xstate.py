"""Run a program for which ptrace has no XSAVE registers: ``python without_xstate.py PROGRAM [ARGUMENT ...]``.

User-mode Linux 6.1 keeps 2,696 bytes for the floating-point registers of a guest process. Processors with AMX have
more, the host then refuses to set them (EFAULT), and the guest panics at its first process. Where the host refuses the
whole register set from the start (EINVAL), the guest uses the older one, which ends with SSE: its programs must then
leave AVX alone (:data:`NO_AVX`).
"""

import ctypes
import os
import struct
import sys

#: For the environment of every guest program: a page fault clears the upper halves of AVX registers there, so the C
#: library's string functions must not use them (names of glibc 2.26 to 2.36; unknown ones are ignored).
NO_AVX = (
    "GLIBC_TUNABLES=glibc.cpu.hwcaps=-AVX_Usable,-AVX2_Usable,-AVX512F_Usable,-XSAVEC_Usable,-AVX,-AVX2,-AVX512F,"
    "-AVX512VL,-AVX512BW,-XSAVEC,-XSAVE,-RTM,-Prefer_No_VZEROUPPER,-AVX_Fast_Unaligned_Load,-BMI2,-LZCNT,-MOVBE,"
    "-SSE4_2,-SSE4_1,-SSSE3"
)

_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 38, 22, 2
_PTRACE, _GETREGSET, _SETREGSET, _NT_X86_XSTATE, _EINVAL = 101, 0x4204, 0x4205, 0x202, 22
_LOAD, _JUMP_IF_EQUAL, _RETURN = 0x20, 0x15, 0x06
#: linux/seccomp.h: the number of the system call stands at 0, its arguments from 16 on.
_FILTER = (
    (_LOAD, 0, 0, 0),
    (_JUMP_IF_EQUAL, 0, 6, _PTRACE),
    (_LOAD, 0, 0, 16),
    (_JUMP_IF_EQUAL, 1, 0, _GETREGSET),
    (_JUMP_IF_EQUAL, 0, 3, _SETREGSET),
    (_LOAD, 0, 0, 32),
    (_JUMP_IF_EQUAL, 0, 1, _NT_X86_XSTATE),
    (_RETURN, 0, 0, 0x0005_0000 | _EINVAL),
    (_RETURN, 0, 0, 0x7FFF_0000),
)


def is_needed() -> bool:
    """Whether this processor has more registers than user-mode Linux 6.1 can keep."""
    with open("/proc/cpuinfo") as file:
        return "amx_tile" in file.read()


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


def main() -> None:
    """Install the filter, then become the program."""
    program = _Program(len(_FILTER), b"".join(struct.pack("HBBI", *each) for each in _FILTER))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or libc.prctl(
        _PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(program)
    ):
        raise OSError(ctypes.get_errno(), "prctl")
    os.execv(sys.argv[1], sys.argv[1:])


if __name__ == "__main__":
    main()

# SPDX-License-Identifier: Apache-2.0
"""What the kernel says of a CPU, in the words of os-traits. The guest has the host's own CPU."""

from __future__ import annotations

import os_traits

PREFIXES = {"x86_64": "HW_CPU_X86_", "i686": "HW_CPU_X86_", "aarch64": "HW_CPU_AARCH64_"}
VENDORS = {"GenuineIntel": "INTEL_", "AuthenticAMD": "AMD_"}

# Flags of /proc/cpuinfo that os-traits spells in its own way. Many others differ by underscores
# only; some traits exist per vendor.
SPELLED = {
    "aes": "AESNI",
    "bmi1": "BMI",
    "fma": "FMA3",
    "gfni": "AVX512GFNI",
    "hle": "TSX",
    "pclmulqdq": "CLMUL",
    "pni": "SSE3",
    "rtm": "TSX",
    "sha_ni": "SHA",
    "vaes": "AVX512VAES",
    "vpclmulqdq": "AVX512VPCLMULQDQ",
}


def of_flags(flags: set[str], architecture: str, vendor: str) -> set[str]:
    """Return the traits of a CPU.

    :param flags: of /proc/cpuinfo
    :param architecture: as Nova writes it
    :param vendor: as /proc/cpuinfo writes it
    """
    prefix = PREFIXES.get(architecture)
    if prefix is None:
        return set()
    known = set(os_traits.get_traits(prefix=prefix))
    found = set()
    for flag in flags:
        name = SPELLED.get(flag, flag.upper())
        spellings = {name, name.replace("_", ""), VENDORS.get(vendor, "") + name}
        found |= {prefix + spelling for spelling in spellings}
    return found & known

# SPDX-License-Identifier: Apache-2.0
"""Host numbers, image formats, options, packaging hooks: what needs no server."""

from __future__ import annotations

import ast
import importlib.util
import io
import pathlib
import re
import sys
import zipfile

import pytest

from nova_lxd.tests.functional.virt import busybox
from nova_lxd.virt import conf, consoletext, cputraits, extra_specs, host, snapshots
from nova_lxd.virt.images import formats, upload
from nova_lxd.virt.images.formats import disk, squashfs, tarball, unified

ROOT = pathlib.Path(__file__).resolve().parents[4]


def test_uptime_has_what_the_api_takes_apart() -> None:
    # nova.api.openstack.compute.hypervisors
    pattern = r"(.+)\sup\s+(.+),\s+(.+)\susers?,\s+load average:\s(.+)"
    found = re.match(pattern, host.uptime().strip())
    assert found and len(found.group(4).split(", ")) == 3


def test_cpu_numbers() -> None:
    assert set(host.cpu_stats()) == {"kernel", "idle", "user", "iowait", "frequency"}


@pytest.mark.parametrize(
    "said,shown",
    [
        ("[  OK  ] Rem…ine ext4", "[  OK  ] Rem...ine ext4"),
        ("● sshd — läuft\r\n", "* sshd - lauft\r\n"),
        ("a\u0308\n└─unit", "a\n`-unit"),
        ("漢\x1b[0m", "?\x1b[0m"),
    ],
)
def test_console_is_spelt_in_ascii(said: str, shown: str) -> None:
    assert consoletext.to_ascii(said.encode()) == shown
    # what nova.compute.manager does with it
    assert shown.encode("latin-1").decode("ascii", "replace") == shown


def test_console_cut_within_a_character_and_bytes_that_are_no_text() -> None:
    assert consoletext.to_ascii("…ab".encode()[1:]) == "ab"
    assert consoletext.to_ascii(b"a\xffb\xe2\x80") == "a?b?"
    assert consoletext.to_ascii(b"") == ""


@pytest.mark.parametrize(
    "flag,vendor,traits",
    [
        ("sse4_2", "GenuineIntel", {"SSE42"}),
        ("avx512_vnni", "GenuineIntel", {"AVX512VNNI"}),
        ("amx_tile", "GenuineIntel", {"AMXTILE"}),
        ("fma", "AuthenticAMD", {"FMA3"}),
        ("rtm", "GenuineIntel", {"TSX"}),
        ("vmx", "GenuineIntel", {"VMX", "INTEL_VMX"}),
        ("svm", "AuthenticAMD", {"SVM", "AMD_SVM"}),
        ("ssbd", "GenuineIntel", {"INTEL_SSBD"}),
        ("ssbd", "AuthenticAMD", {"AMD_SSBD"}),
        ("ssbd", "CentaurHauls", set()),
        ("lm", "GenuineIntel", set()),
    ],
)
def test_cpu_flags_in_the_words_of_os_traits(flag: str, vendor: str, traits: set[str]) -> None:
    wanted = {"HW_CPU_X86_" + trait for trait in traits}
    assert cputraits.of_flags({flag}, "x86_64", vendor) == wanted


def test_other_architectures_have_their_own_traits() -> None:
    found = cputraits.of_flags({"asimd", "sha2"}, "aarch64", "")
    assert found == {"HW_CPU_AARCH64_ASIMD", "HW_CPU_AARCH64_SHA2"}
    assert cputraits.of_flags({"sse"}, "riscv64", "") == set()


@pytest.mark.parametrize(
    "data,module",
    [
        (b"hsqs" + bytes(600), squashfs),
        (b"QFI\xfb" + bytes(600), disk),
        (bytes(510) + b"\x55\xaa", disk),
    ],
)
def test_formats_by_content(tmp_path: pathlib.Path, data: bytes, module: object) -> None:
    path = tmp_path / "anything.jpg"
    path.write_bytes(data)
    assert formats.detect(path) is module


@pytest.mark.skipif(not busybox.available(), reason="no static busybox")
def test_archives_by_what_is_in_them(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "image"
    path.write_bytes(busybox.unified())
    assert formats.detect(path) is unified
    path.write_bytes(busybox.rootfs())
    assert formats.detect(path) is tarball


def test_unknown_content_names_what_is_known(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "image"
    path.write_bytes(b"GIF89a" * 1000)
    with pytest.raises(ValueError, match="squashfs, nor a qcow2"):
        formats.detect(path)


def test_fingerprint_is_that_of_lxd(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "rootfs"
    path.write_bytes(b"abc")
    split = upload.split(path, "text")
    assert split.fingerprint() == upload.split(path, "text").fingerprint()
    assert split.fingerprint() != upload.Upload(path).fingerprint()


def test_reader_hands_out_any_size() -> None:
    reader = snapshots.Reader(iter([b"abc", b"defg", b"h"]))
    assert [reader.read(2), reader.read(3), reader.read(0)] == [b"ab", b"cde", b""]
    assert reader.read() == b"fgh"
    assert reader.read(5) == b""


def test_every_option_has_help_and_is_in_the_sample() -> None:
    sample = (ROOT / "etc/nova/nova-lxd.conf.sample").read_text()
    for option in conf.ALL_OPTS:
        assert option.help and len(option.help) > 20, option.name
        assert f"#{option.name} = " in sample, f"regenerate the sample: {option.name}"


def test_extra_specs() -> None:
    found = {validator.name: validator for validator in extra_specs.register()}
    found["lxd:nesting"].validate("lxd:nesting", "true")
    from nova import exception

    with pytest.raises(exception.ValidationError):
        found["lxd:processes"].validate("lxd:processes", "many")


def test_neither_eventlet_nor_the_daemon_is_imported() -> None:
    for path in (ROOT / "nova_lxd/virt").rglob("*.py"):
        for statement in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in getattr(statement, "names", [])]
            module = getattr(statement, "module", None) or ""
            for name in [*names, module]:
                assert not name.startswith(("eventlet", "nova_lxd.lxd")), path


def test_import_hook_answers_one_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT))
    import nova_lxd_import_hook as hook

    others = [f for f in sys.meta_path if type(f).__name__ != "DriverFinder"]
    monkeypatch.setattr(sys, "meta_path", others)
    hook.install()
    hook.install()
    finders = [f for f in sys.meta_path if type(f).__name__ == "DriverFinder"]
    assert finders == [sys.meta_path[-1]]
    assert finders[0].find_spec("nova.virt.lxd").origin == "nova_lxd.virt.driver"
    assert finders[0].find_spec("nova.virt.libvirt") is None


def test_file_added_to_a_wheel_is_recorded(tmp_path: pathlib.Path) -> None:
    spec = importlib.util.spec_from_file_location("build", ROOT / "nova_lxd_build.py")
    build = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(build)
    wheel = tmp_path / "x.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("x.dist-info/RECORD", "a,,\n")
    build.add_to_wheel(wheel, "hook.pth", b"import x\n")
    with zipfile.ZipFile(io.BytesIO(wheel.read_bytes())) as archive:
        assert archive.read("hook.pth") == b"import x\n"
        line = archive.read("x.dist-info/RECORD").decode().splitlines()[-1]
    assert line.startswith("hook.pth,sha256=") and line.endswith(",9")


def test_driver_name_in_diagnostics_is_one_that_nova_accepts() -> None:
    """The day Nova knows this driver's own name, this fails and the borrowed one can go."""
    from nova.api.openstack.compute.schemas import server_diagnostics
    from nova.objects import fields

    from nova_lxd.virt import diagnostics

    shown = server_diagnostics.index_response_v248["properties"]["driver"]["enum"]
    for names in (fields.HypervisorDriver.ALL, shown):
        assert diagnostics.DRIVER in names
        assert diagnostics.HYPERVISOR not in names

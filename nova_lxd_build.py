# SPDX-License-Identifier: Apache-2.0
"""setuptools commands that carry ``nova_lxd.pth`` into site-packages.

No declarative setuptools or pbr setting puts a file at the root of a wheel, and an editable
wheel is made by another command than a regular one; each gets the file here. pbr ignores
``cmdclass=``: the commands are named in setup.cfg under ``[global] commands``.
"""

import base64
import hashlib
import pathlib
import zipfile

from setuptools.command.build_py import build_py
from setuptools.command.editable_wheel import editable_wheel

PTH = pathlib.Path(__file__).with_name("nova_lxd.pth")


class BuildPy(build_py):
    """Regular builds: the .pth lies beside the packages in the build directory."""

    command_name = "build_py"

    def run(self):
        super().run()
        if not self.editable_mode:  # an editable build has no tree to copy into
            self.copy_file(str(PTH), str(pathlib.Path(self.build_lib, PTH.name)))


class EditableWheel(editable_wheel):
    """Editable builds: add the .pth to the finished wheel."""

    command_name = "editable_wheel"

    def run(self):
        super().run()
        for wheel in pathlib.Path(self.dist_dir).glob("*.whl"):
            add_to_wheel(wheel, PTH.name, PTH.read_bytes())


def add_to_wheel(wheel, name, content):
    """Add a file to a wheel, with the RECORD line without which pip would not uninstall it."""
    digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
    with zipfile.ZipFile(wheel) as archive:
        members = {info: archive.read(info) for info in archive.infolist()}
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        for info, data in members.items():
            if info.filename.endswith(".dist-info/RECORD"):
                data += f"{name},sha256={digest},{len(content)}\n".encode()
            archive.writestr(info, data)
        archive.writestr(name, content)

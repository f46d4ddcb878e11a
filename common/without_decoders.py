"""Imported first by processes that read data elements and draw no pictures: for them no decoder is installed.

pydicom imports numpy and every decoder that it finds. Pictures alone need them, and they are drawn by processes of
their own. Without them a process has 45 MB of memory instead of 80, a quarter of the address space, starts a third
sooner, and has no thread of OpenBLAS that signals could go to, and no decoder for anybody to feed.

`None` in sys.modules is how Python marks a module that must not be imported: it raises ModuleNotFoundError. A program
that imports the `__main__` of such a process, as tests do, keeps all of them.
"""

import sys

_PROCESSES = frozenset(("receiver.__main__", "uploader.__main__", "console.__main__"))
_DECODERS = ("numpy", "PIL", "gdcm", "openjpeg", "pylibjpeg")

if getattr(getattr(sys.modules["__main__"], "__spec__", None), "name", "") in _PROCESSES:
    for name in _DECODERS:
        sys.modules.setdefault(name, None)  # type: ignore[arg-type]

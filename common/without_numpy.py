"""Imported first by processes that read data elements and draw no pictures: for them numpy is as if not installed.

pydicom imports numpy where it finds it, and with it every decoder that is installed. Pictures alone need them, and they
are drawn by processes of their own. Without them a process has 12 MB less memory and half the address space, starts
sooner, and has no threads of OpenBLAS that signals could go to, and no decoder for anybody to feed.

`None` in sys.modules is how Python marks a module that must not be imported: it raises ModuleNotFoundError. A program
that imports the `__main__` of such a process, as tests do, keeps its numpy.
"""

import sys

_PROCESSES = frozenset(("receiver.__main__", "uploader.__main__", "console.__main__"))

if getattr(getattr(sys.modules["__main__"], "__spec__", None), "name", "") in _PROCESSES:
    sys.modules.setdefault("numpy", None)  # type: ignore[arg-type]

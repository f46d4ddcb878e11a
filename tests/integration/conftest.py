"""Fixtures that need real processes, for these tests."""

from support.fixtures import make_orthanc, make_pipeline, sandbox

__all__ = ["make_orthanc", "make_pipeline", "sandbox"]

"""A small STOW-RS origin server for demos, tests and benchmarks. It is no archive."""

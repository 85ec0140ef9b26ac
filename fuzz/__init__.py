"""Fuzz targets, one for each decoder of untrusted bytes: `python -m fuzz.fuzz_control [libFuzzer options]` (needs atheris)."""

"""Modest examples, and the same ones in each run: a failing example is kept as a test of its own."""

from hypothesis import HealthCheck, settings

settings.register_profile(
    "memwarden",
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
settings.load_profile("memwarden")

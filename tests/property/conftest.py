"""How hard to look: enough to find what is wrong, on two busy cores."""

from hypothesis import HealthCheck, settings

settings.register_profile("noria", deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("noria")

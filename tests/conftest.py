"""One profile for all properties: a busy machine must not fail a test for being slow."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

settings.register_profile("spp_det", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("spp_det")

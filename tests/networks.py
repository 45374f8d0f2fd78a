"""Networks that tests look at and none changes: a worker builds each of them once."""

from __future__ import annotations

import functools

from spp_det.model.backbone import Backbone

shared = functools.cache(Backbone)

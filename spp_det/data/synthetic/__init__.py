"""Generated scenes with exact boxes, for the demo and the tests: no download, no licence.

Textured, shaded objects of six classes lie on crops of two photographs among things of no class, tilted
by up to 36 degrees, from 36 pixels to 60% of the image's shorter side, behind each other and behind clutter.
Five classes are told by their outline; a ``checker`` only by its texture, on a disc that occurs with
other textures as clutter. Colour tells nothing.
"""

from spp_det.data.synthetic.generate import generate_voc
from spp_det.data.synthetic.scenes import CLASSES, Scene, scene

__all__ = ["CLASSES", "Scene", "generate_voc", "scene"]

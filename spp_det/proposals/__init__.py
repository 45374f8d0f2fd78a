"""Windows that may hold an object: searched for in the image, or read from a file.

shrunk      what every search has in common
selective   selective search: segmentation, regions, grouping by presets
reference   the same windows by OpenCV
edges       Edge Boxes
files       proposals in files: R-CNN's ``.mat``, ``.npz``, JSON
source      which of these the settings ask for, and the cache
"""

from spp_det.proposals.presets import MODES, SearchMode
from spp_det.proposals.selective import selective_search

__all__ = ["MODES", "SearchMode", "selective_search"]

"""Windows that may hold an object: searched for in the image, or read from a file.

shrunk      the part that all searches share
selective   selective search: segmentation, regions, grouping by presets
reference   the same windows by OpenCV
edges       Edge Boxes
files       proposals in files: R-CNN's ``.mat``, ``.npz``, JSON
source      the search or file that the settings ask for, and the cache of windows
"""

from spp_det.proposals.presets import MODES, SearchMode
from spp_det.proposals.selective import selective_search

__all__ = ["MODES", "SearchMode", "selective_search"]

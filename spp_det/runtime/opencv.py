"""OpenCV, imported in one place: ``from spp_det.runtime.opencv import cv2``.

Its wheel links against system libraries that bare servers and containers lack, and the common
``opencv-python`` wheel, installed beside it, silently replaces it with a build that has no selective
search. Both end here in one line that says what to do.
"""

from __future__ import annotations

from spp_det.errors import UserError

__all__ = ["OpenCVError", "cv2"]

REMEDY = (
    "either install the system libraries (apt-get install libgl1 libglib2.0-0), or use the build without"
    " windows: pip uninstall -y opencv-contrib-python opencv-python, then pip install"
    " opencv-contrib-python-headless"
)


class OpenCVError(UserError, ImportError):
    """OpenCV, or the part of it that holds selective search, cannot be imported here.

    An ImportError as well, because it is raised while a module of this package is being imported.
    """


try:
    import cv2
except ImportError as error:
    reason = " ".join(str(error).split())
    raise OpenCVError(f"OpenCV does not import ({reason}): {REMEDY}") from error

if not hasattr(cv2, "ximgproc"):
    raise OpenCVError(f"OpenCV is installed without its contrib modules (no cv2.ximgproc): {REMEDY}")

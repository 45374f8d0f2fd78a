"""What pyproject.toml cannot say: the recipes of ``configs/`` are data of the package, in spp_det/recipes.

They stay where readers of the repository look for them; spp_det/config/recipes.py finds them in both places.
"""

from setuptools import find_namespace_packages, setup

setup(
    packages=[*find_namespace_packages(include=["spp_det", "spp_det.*"]), "spp_det.recipes"],
    package_dir={"spp_det.recipes": "configs"},
)

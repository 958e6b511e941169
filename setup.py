"Package metadata: every value comes from settings.ini."
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

here = Path(__file__).parent
ini = ConfigParser(delimiters=["="])
ini.read(here / "settings.ini", encoding="utf-8")
cfg = ini["DEFAULT"]
lib = cfg["lib_name"]
status = ["1 - Planning", "2 - Pre-Alpha", "3 - Alpha", "4 - Beta", "5 - Production/Stable"][int(cfg["status"]) - 1]
extras = ("lab", "docs", "timm", "heif", "onnx", "serve", "ray", "urls", "lance", "dev")
lab, docs, timm, heif, onnx, serve, ray, urls, lance, dev = (cfg[f"{extra}_requirements"].split() for extra in extras)

setup(
    name=lib,
    version=cfg["version"],
    description=cfg["description"],
    long_description=(here / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    keywords=cfg["keywords"].split(),
    author=cfg["author"],
    license_expression=cfg["license"],
    license_files=["LICENSE"],
    python_requires=">=" + cfg["min_python"],
    packages=find_packages(include=[lib, lib + ".*"]),
    package_data={lib: ["py.typed", "js/*", "pictures/*"]},
    install_requires=cfg["requirements"].split(),
    extras_require={
        "lab": lab, "docs": docs, "timm": timm, "heif": heif, "onnx": onnx, "serve": serve, "ray": serve + ray, "urls": urls,
        "lance": lance,
        "dev": lab + docs + onnx + serve + urls + dev,
    },
    entry_points={"console_scripts": [f"{lib}={lib}.__main__:main"], "nbdev": [f"{lib}={lib}._modidx:d"]},
    classifiers=[
        f"Development Status :: {status}",
        "Programming Language :: Python :: 3 :: Only",
        "Framework :: Jupyter",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
    zip_safe=False,
)

"""The Cython extensions; everything else about the distribution is in pyproject.toml.

QZD_DEBUG=1 builds with bounds checks, AddressSanitizer and UBSan; `make test-memory` uses it.
"""

import os
import platform

import numpy
from Cython.Build import cythonize
from setuptools import Extension, setup

DEBUG = os.environ.get("QZD_DEBUG") == "1"
SANITIZE = ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"]

# No contraction into fused multiply-adds: a threshold decides the same on every CPU.
COMPILE = ["-std=gnu11", "-fno-math-errno", "-ffp-contract=off"]
if DEBUG:
    COMPILE += ["-O1", "-g", *SANITIZE, "-DQZD_DEBUG"]
else:
    COMPILE += ["-O3"]
if platform.machine() in ("x86_64", "AMD64"):
    COMPILE += ["-march=x86-64-v2"]

extensions = [
    Extension(
        f"qzd_ext.{name}",
        [f"ext/qzd_ext/{name}.pyx"],
        depends=["ext/qzd_ext/_simd.h"],
        include_dirs=[numpy.get_include()],
        define_macros=[("NPY_NO_DEPRECATED_API", "NPY_2_0_API_VERSION")],
        libraries=["m"],
        extra_compile_args=COMPILE,
        extra_link_args=SANITIZE if DEBUG else [],
    )
    for name in ("_arrays", "_nms", "_place", "_scan")
]

setup(
    ext_modules=cythonize(
        extensions,
        include_path=["ext"],
        build_dir="build/debug" if DEBUG else None,
        compiler_directives={
            "language_level": 3,
            "boundscheck": DEBUG,
            "wraparound": False,
            "initializedcheck": DEBUG,
            "cdivision": True,
        },
    )
)

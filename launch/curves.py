"""Training curves as a page: python launch/curves.py --runs checkpoints/qwen2vl_sft ..."""

from kit.command import parse, run
from kit.report.curves import CurvesConfig, curves


def main() -> int:
    return curves(parse(CurvesConfig))


if __name__ == "__main__":
    run(main)

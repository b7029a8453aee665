"""Training curves as a page: python launch/curves.py --runs checkpoints/qwen2vl_sft ..."""

from kit import command


def main() -> int:
    from kit.report.config import CurvesConfig

    config = command.parse(CurvesConfig)

    from kit.report.curves import curves

    return curves(config)


if __name__ == "__main__":
    command.run(main)

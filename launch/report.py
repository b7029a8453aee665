"""Several evaluations side by side: python launch/report.py --evaluations base=... sft=..."""

from kit.command import parse, run
from kit.report.report import ReportConfig, report


def main() -> int:
    return report(parse(ReportConfig))


if __name__ == "__main__":
    run(main)

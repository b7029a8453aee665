"""The metrics of several evaluations side by side: python launch/report.py --evaluations ..."""

from kit.command import parse, run
from kit.evaluate.report import ReportConfig, report


def main() -> int:
    return report(parse(ReportConfig))


if __name__ == "__main__":
    run(main)

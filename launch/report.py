"""Several evaluations side by side: python launch/report.py --evaluations base=... sft=..."""

from kit import command


def main() -> int:
    from kit.report.config import ReportConfig

    config = command.parse(ReportConfig)

    from kit.report.report import report

    return report(config)


if __name__ == "__main__":
    command.run(main)

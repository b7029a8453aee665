"""Several evaluations side by side: python launch/report.py --evaluations base=... sft=..."""

from kit import cli

if __name__ == "__main__":
    cli.main_of("report")

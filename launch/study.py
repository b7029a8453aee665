"""Several systems with several seeds, on one page: python launch/study.py --study arena"""

from kit import cli

if __name__ == "__main__":
    cli.main_of("study")

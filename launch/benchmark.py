"""This kit beside TRL and generate: python launch/benchmark.py --shapes usual "sft slake"."""

from kit import cli

if __name__ == "__main__":
    cli.main_of("benchmark")

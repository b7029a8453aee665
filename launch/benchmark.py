"""This kit beside TRL and generate: python launch/benchmark.py --shapes usual "sft slake"."""

from kit import command


def main() -> int:
    from kit.demo.config import BenchmarkConfig

    config = command.parse(BenchmarkConfig)

    from kit.demo.bench.benchmark import benchmark

    return benchmark(config)


if __name__ == "__main__":
    command.run(main)

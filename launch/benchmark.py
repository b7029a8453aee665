"""GRPO of this kit and of TRL side by side: python launch/benchmark.py --shapes usual."""

from kit import command


def main() -> int:
    from kit.demo.config import BenchmarkConfig

    config = command.parse(BenchmarkConfig)

    from kit.demo.benchmark import benchmark

    return benchmark(config)


if __name__ == "__main__":
    command.run(main)

"""Evaluation: accelerate launch launch/evaluate.py --adapter ... --data ... --output ..."""

from kit import command


def main() -> int:
    from kit.evaluate.config import EvaluateConfig

    config = command.parse(EvaluateConfig)

    from kit.evaluate.evaluation import evaluate

    return evaluate(config)


if __name__ == "__main__":
    command.run(main)

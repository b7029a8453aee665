"""Evaluation: accelerate launch launch/evaluate.py --adapter ... --data ... --output ..."""

from kit import command


def main() -> None:
    from kit.evaluate.config import EvaluateConfig

    config = command.parse(EvaluateConfig)

    from kit.evaluate.evaluation import evaluate
    from kit.evaluate.report import metrics_table

    metrics = evaluate(config)
    if metrics:  # on the main process
        print(metrics_table({config.adapter or config.base_model: metrics}))
        print(f"predictions and metrics are in {config.output}")


if __name__ == "__main__":
    command.run(main)

"""GRPO: accelerate launch launch/train_grpo.py --sft_ckpt ... --data_jsonl ... --out_dir ..."""

from kit import command


def main() -> int:
    from kit.grpo.config import GrpoConfig

    config = command.parse(GrpoConfig)

    from kit.grpo.grpo import train

    return train(config)


if __name__ == "__main__":
    command.run(main)

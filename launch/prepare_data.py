"""Prepare published sets or your own data: their layouts in, SFT records and a report out.

python launch/prepare_data.py --output data/train.json --dataset both --split train
"""

from kit.command import parse, run
from kit.data.prepare import PrepareConfig, prepare


def main() -> None:
    prepare(parse(PrepareConfig))


if __name__ == "__main__":
    run(main)

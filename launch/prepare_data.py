"""Prepare published sets or your own data: their layouts in, SFT records and a report out.

python launch/prepare_data.py --output data/train.json --dataset both --split train
"""

from kit import cli

if __name__ == "__main__":
    cli.main_of("prepare_data")

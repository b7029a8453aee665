"""Records of images without their evidence: python launch/cf_pairs.py --data data/train.json ..."""

from kit import cli

if __name__ == "__main__":
    cli.main_of("cf_pairs")

"""Draw phantoms in the layout of SLAKE: python -m kit.data.phantom --output data/phantoms."""

from dataclasses import dataclass
from typing import Literal

from kit.command import option, parse, run
from kit.data.phantom.dataset import write_slake_phantoms
from kit.files import require_folder


@dataclass
class PhantomConfig:
    """Draw CT, MRI and X-ray phantoms with questions, in the layout of SLAKE."""

    output: str = option("data/phantoms", help="folder, to be given as --slake_root")
    train: int = option(240, help="images of the train split")
    validate: int = option(20, help="images of the validate split")
    test: int = option(40, help="images of the test split")
    seed: int = option(0, help="of what is drawn")
    twins: Literal["none", "train", "validate", "test"] = option(
        "none",
        help="the split that also holds each phantom without what decides a question, with the "
        "answers that are then true: pairs of images that differ in the evidence alone",
    )


def draw(config: PhantomConfig) -> None:
    require_folder(config.output)
    images = {"train": config.train, "validate": config.validate, "test": config.test}
    twins = {config.twins} - {"none"}
    write_slake_phantoms(config.output, images=images, seed=config.seed, twins=twins)
    print(f"{sum(images.values())} phantoms are in {config.output}")


if __name__ == "__main__":
    run(lambda: draw(parse(PhantomConfig)))

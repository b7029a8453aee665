"""Draw phantoms in the layout of SLAKE: python -m kit.data.phantom --output data/phantoms."""

from kit.command import parse, run
from kit.data.config import PhantomConfig
from kit.data.phantom.dataset import write_slake_phantoms
from kit.files import require_folder


def draw(config: PhantomConfig) -> None:
    require_folder(config.output)
    images = {"train": config.train, "validate": config.validate, "test": config.test}
    twins = {config.twins} - {"none"}
    write_slake_phantoms(config.output, images=images, seed=config.seed, twins=twins)
    print(f"{sum(images.values())} phantoms are in {config.output}")


if __name__ == "__main__":
    run(lambda: draw(parse(PhantomConfig)))

"""Images of a run: made by several threads and kept, and in either case the same."""

import numpy as np
import pytest
import torch
from PIL import Image

from kit.counterfactual import images
from kit.counterfactual.controls import Content
from kit.counterfactual.images import ImageCache
from kit.counterfactual.inpaint import inpaint, mean_change
from kit.errors import UserError
from kit.model import resources


@pytest.fixture
def paths(tmp_path):
    rng = np.random.default_rng(0)
    for name, side in (("a", 120), ("b", 90), ("c", 150)):
        pixels = rng.integers(40, 200, (side, side + 10, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
    return [str(tmp_path / f"{name}.png") for name in "abc"]


def requests_of(paths):
    boxes = [(), ((10, 12, 40, 38),), ((50, 50, 70, 80), (5, 60, 20, 75)), ((30, 5, 60, 25),)]
    return [(path, without) for path in paths for without in boxes]


def alone(processor, path, without):
    pixels = np.asarray(Image.open(path).convert("RGB"))
    return processor.prepare_image(Image.fromarray(inpaint(pixels, without, "telea")))


@pytest.mark.parametrize("cores", [1, 4])
@pytest.mark.parametrize("limit", [images.CACHE_BYTES, 300_000, 0], ids=["all", "some", "none"])
def test_images_are_the_same_however_they_are_made(cores, limit, paths, processor, monkeypatch):
    """In whatever batches, by one thread or several, kept or not: those of one at a time, in order;
    within a batch equal requests are one object. No more is kept than is allowed."""
    monkeypatch.setattr(images, "own_cores", lambda: cores)
    monkeypatch.setattr(images, "CACHE_BYTES", limit)
    requests = [*requests_of(paths), *requests_of(paths)[::-1]]
    expected = {request: alone(processor, *request) for request in requests}
    cache = ImageCache(processor)
    regions = [(path, without, ()) for path, without in requests if without]
    for size in (24, 5):
        batches = [requests[i : i + size] for i in range(0, 24, size)]
        for batch, made in zip(batches, cache.prepared_ahead(batches), strict=True):
            for request, image in zip(batch, made, strict=True):
                assert image.key == expected[request].key
                assert image.n_tokens == expected[request].n_tokens
                assert torch.equal(image.pixel_values, expected[request].pixel_values)
            assert len({id(image) for image in made}) == len({*batch})
            assert max(cache._originals.n_bytes, cache._variants.n_bytes) <= limit
    controls = cache.controls_all(regions, draws=2, seed=3)
    assert controls == [cache.controls(p, r, draws=2, seed=3) for p, r, _ in regions]
    for path, region, _ in regions:
        pixels = np.asarray(Image.open(path))
        assert cache.change(path, region) == mean_change(pixels, region)
        fresh = ImageCache(processor).controls(path, region, draws=2, seed=3)
        assert fresh == cache.controls(path, region, draws=2, seed=3)
    assert any(controls), "something matches"


def test_what_is_kept_is_made_once(paths, processor, monkeypatch):
    """Over steps: opened, looked at and prepared."""
    made = []
    for owner, name in ((ImageCache, "_open"), (ImageCache, "_make"), (Content, "controls")):
        method = getattr(owner, name)

        def counted(*arguments, method=method, name=name, **options):
            made.append(name)
            return method(*arguments, **options)

        monkeypatch.setattr(owner, name, counted)
    cache = ImageCache(processor)
    for _ in range(3):
        kept = cache.prepared_all(requests_of(paths))
        cache.controls_all([(paths[0], ((10, 12, 40, 38),), ())] * 2, draws=2, seed=0)
    assert sorted(made) == ["_make"] * 12 + ["_open"] * 3 + ["controls"]
    assert cache.prepared(paths[2]) is kept[8]


@pytest.mark.parametrize("damage", ["cut off", "gone"])
def test_a_broken_image_is_named(damage, paths, processor):
    with open(paths[1], "r+b") as stream:
        stream.truncate(200)
    if damage == "gone":
        paths[1] = paths[1].replace("b.png", "no.png")
    with pytest.raises(UserError) as caught:
        ImageCache(processor).prepared_all(requests_of(paths))
    assert paths[1] in str(caught.value)


def test_what_a_thread_raises_is_raised(paths, processor, monkeypatch):
    def full(*_):
        raise UserError("the disk is full")

    monkeypatch.setattr(ImageCache, "_write", full)
    with pytest.raises(UserError, match="the disk is full"):
        ImageCache(processor, folder="kept").prepared_all(requests_of(paths))


@pytest.mark.parametrize(
    ("machine", "bound", "told", "cores"),
    [
        (16, 16, {}, 16), (16, 16, {"LOCAL_WORLD_SIZE": "8"}, 2), (2, 2, {}, 2), (None, 1, {}, 1),
        (2, 2, {"LOCAL_WORLD_SIZE": "4"}, 1),
        (64, 8, {"LOCAL_WORLD_SIZE": "8", "SLURM_CPUS_PER_TASK": "8"}, 8),
        (64, 64, {"LOCAL_WORLD_SIZE": "8", "SLURM_CPUS_PER_TASK": "64"}, 8),
    ],
)  # fmt: skip
def test_cores_of_a_machine_are_shared_by_its_processes(machine, bound, told, cores, monkeypatch):
    for name in ("LOCAL_WORLD_SIZE", "SLURM_CPUS_PER_TASK"):
        monkeypatch.delenv(name, raising=False)
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(resources.os, "cpu_count", lambda: machine)
    monkeypatch.setattr(resources.os, "sched_getaffinity", lambda _: range(bound), raising=False)
    assert resources.own_cores() == cores

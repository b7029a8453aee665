"""Single pieces of the SFT loop: its loader, its evaluation, whose image's pass is shared."""

import shutil
from types import SimpleNamespace

import pytest
import torch
import yaml

from kit.data.records import read_sft_records
from kit.model.folders import base_folder
from kit.model.logprobs import LogprobModel
from kit.run import process
from kit.run.state import Progress
from kit.train import sft
from kit.train.balance import Size
from kit.train.config import SftConfig
from kit.train.data import pack_records
from kit.train.finish import model_card
from kit.train.sft import evaluate_loss, loader, training_batches, update


def config_with(**changes) -> SftConfig:
    return SftConfig(base_model="tiny", data="x", per_device_train_batch_size=3, **changes)


class Numbers(torch.utils.data.Dataset):
    """Micro-batches that are their own numbers."""

    def __getitem__(self, number: int) -> int:
        return number


@pytest.mark.parametrize(("accumulation", "left"), [(1, [3, 4]), (3, [9, 10, 11, 12, 13, 14])])
def test_a_resumed_run_goes_on_with_the_next_micro_batch(accumulation, left):
    config = config_with(gradient_accumulation_steps=accumulation)
    before = torch.get_rng_state()
    assert list(loader(Numbers(), 3, 5, config, torch.device("cpu"))) == left
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize(
    ("device", "cores", "settings", "workers", "pinned"),
    [
        ("cpu", 16, {}, 0, False), ("cuda", 16, {}, 4, True), ("cuda", 2, {}, 2, True),
        ("cpu", 2, {"dataloader_num_workers": 1}, 1, False),
        ("cuda", 16, {"dataloader_num_workers": 0, "dataloader_pin_memory": False}, 0, False),
    ],
)  # fmt: skip
def test_a_gpu_is_fed_by_processes_of_its_own(
    device, cores, settings, workers, pinned, monkeypatch
):
    monkeypatch.setattr(sft, "own_cores", lambda: cores)
    fed = loader(Numbers(), 0, 1, config_with(**settings), torch.device(device))
    assert (fed.num_workers, fed.pin_memory) == (workers, pinned)


def test_what_a_process_hands_over_is_no_larger_than_its_images(prepared, processor, monkeypatch):
    """No mask of all tokens by all tokens; and every tensor is pinned, those of the mask too."""
    records = read_sft_records(prepared["train"])[0][:8]
    batch = pack_records(records, processor, modes=("think_answer",), merge_size=2, max_length=4096)
    pinned = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: pinned.append(self) or self)
    assert torch.equal(batch.pin_memory().input_ids, batch.input_ids)
    rows, length = batch.input_ids.shape
    tensors = [t for part in (batch, batch.tree_mask) for t in vars(part).values()]
    assert {id(t) for t in tensors if isinstance(t, torch.Tensor)} == {id(t) for t in pinned}
    others = sum(t.nbytes for t in pinned if t is not batch.pixel_values)
    assert others < batch.pixel_values.nbytes
    assert batch.tree_mask.visible.numel() < rows * length**2


@pytest.mark.parametrize(("dropout", "rows"), [(0.0, 1), (0.1, 3)])
def test_questions_share_their_image_s_pass_unless_dropout_is_drawn_in_it(
    dropout, rows, prepared, processor
):
    first = read_sft_records(prepared["train"])[0][0].image
    records = [r for r in read_sft_records(prepared["train"])[0] if r.image == first][:3]
    alone = SimpleNamespace(process_index=0, num_processes=1)
    sizes = [Size(50, 20)] * 3
    config = config_with(lora_dropout=dropout)
    batches = training_batches(config, records, sizes, processor, alone, 3)
    assert len(batches[0].input_ids) == rows


@pytest.fixture
def held_out(prepared):
    return read_sft_records(prepared["test"])[0][:7]


def test_evaluation_leaves_training_as_it_was(fresh_model, processor, held_out):
    model = LogprobModel(fresh_model).train()
    evaluate_loss(process.join(), model, held_out[:2], processor, config_with())
    assert model.training


def test_two_ranks_count_every_held_out_record_once(base_model, processor, held_out):
    """Three batches: the second rank has one less, and yet makes as many forwards."""
    model, config = LogprobModel(base_model), config_with()
    alone = evaluate_loss(process.join(), model, held_out, processor, config)
    given = []
    for rank in (0, 1):
        one = SimpleNamespace(
            process_index=rank, num_processes=2, device=torch.device("cpu"),
            reduce=lambda own, reduction: given.append(own) or sum(given),
        )  # fmt: skip
        together = evaluate_loss(one, model, held_out, processor, config)
    base_model.eval()
    assert together == pytest.approx(alone, rel=1e-6)


@pytest.mark.parametrize("size", [2, 1])
def test_an_update_does_not_depend_on_how_it_is_accumulated(size, fresh_model, processor, held_out):
    """The mean over all supervised tokens, however many each part has of them."""

    def gradients(model, size):
        parts = [
            pack_records(
                held_out[i : i + size], processor, modes=("think_answer",), merge_size=2,
                max_length=4096,
            )
            for i in range(0, 4, size)
        ]  # fmt: skip
        accelerator = process.join(gradient_accumulation_steps=len(parts))
        head = model.lm_head.weight
        before = head.detach().clone()
        optimizer = accelerator.prepare(torch.optim.SGD([head], lr=1.0))
        config = config_with(gradient_accumulation_steps=len(parts), max_grad_norm=0.0)
        metrics, _ = update(accelerator, LogprobModel(model), optimizer, parts, config)
        return metrics["loss"], before - head.detach()

    state = {name: value.clone() for name, value in fresh_model.state_dict().items()}
    whole = gradients(fresh_model, 4)
    fresh_model.load_state_dict(state)
    loss, gradient = gradients(fresh_model, size)
    assert loss == pytest.approx(whole[0], rel=1e-5)
    torch.testing.assert_close(gradient, whole[1], rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("base", ["tiny", "Qwen/Qwen2-VL-2B-Instruct", "a folder"])
def test_the_card_names_no_base_that_the_hub_would_refuse(base, tmp_path):
    name = str(shutil.copytree(base_folder(), tmp_path / "base")) if base == "a folder" else base
    config = SftConfig(base_model=name, data="x", output_dir=str(tmp_path))
    card = model_card(config, Progress(), [], None, "qwen2_vl")
    front = yaml.safe_load(card.split("---\n")[1])
    assert front.get("base_model") == (None if base == "a folder" else base)
    assert f"Base model: {name}" in card

"""DFPIR against numbers of the authors' network (golden/dfpir_tiny.safetensors; origin in dfpir_tiny.md)."""

import dataclasses
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from pellucid import models
from pellucid.checkpoint import Checkpoint
from pellucid.convert import convert_dfpir
from pellucid.errors import CheckpointMismatchError, InputError
from pellucid.models.dfpir import (
    DFPIR,
    KEY_TABLE,
    DFPIRConfig,
    PerturbationBlock,
    SelectiveCrossAttention,
    from_official,
    official_shapes,
    relaxed_sort,
    score_permutations,
    sort_permutations,
    straight_through_sort,
    to_official,
    with_shuffle,
)

GOLDEN = load_file(Path(__file__).parents[1] / "golden" / "dfpir_tiny.safetensors")
SIZES = ("64x64", "72x48")
TINY = DFPIRConfig(
    dim=8, num_blocks=(1, 1, 1, 1), num_refinement_blocks=1, prompts=("a0", "a1", "b0", "b1")
)  # as the fixture; "a" are the codes of the first size, "b" of the second
BLOCKS = {
    "encoder_shuffle_channel1": "encoder.0.perturbation",
    "encoder_shuffle_channel2": "encoder.1.perturbation",
    "encoder_shuffle_channel3": "encoder.2.perturbation",
    "latent_shuffle_channel": "bottleneck.perturbation",
}


def official_weights() -> dict[str, Tensor]:
    """The fixture's tensors under the authors' names, decoded as its note says."""
    weights = {}
    for key, value in GOLDEN.items():
        kind, name = key.split(".", 1)
        if kind == "f32":
            weights[name] = value
        elif kind == "q8":
            weights[name] = value.float() * GOLDEN[f"scale.{name}"]
        elif kind == "lr_a":
            weights[name] = value.float() @ GOLDEN[f"lr_b.{name}"].float() * GOLDEN[f"scale.{name}"]
    return weights


@pytest.fixture(scope="module")
def checkpoint():
    codes = torch.cat([GOLDEN[f"text.{size}"] for size in SIZES])
    return convert_dfpir(official_weights(), codes, TINY.prompts)


@pytest.fixture
def network(checkpoint) -> DFPIR:
    return checkpoint.build()


def tiny_network(**changes) -> DFPIR:
    torch.manual_seed(0)
    return DFPIR(dataclasses.replace(TINY, **changes))


def prompts(size: str) -> Tensor:
    return torch.tensor([0, 1]) + 2 * SIZES.index(size)


# --- the authors' numbers


def test_config_is_read_from_the_tensors(checkpoint):
    assert DFPIRConfig(**checkpoint.config) == TINY


@pytest.mark.parametrize("folded", [True, False])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
def test_output_equals_the_authors(network, size, dtype, bound, folded):
    network.train(not folded).to(dtype)
    expected = GOLDEN[f"output_f{dtype.itemsize * 8}.{size}"]
    with torch.no_grad():
        restored = network(GOLDEN[f"input.{size}"].to(dtype), prompts(size))
    assert restored.dtype == dtype
    assert (restored - expected).abs().max() <= bound


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("theirs", BLOCKS)
def test_permutations_equal_the_authors(network, theirs, size):
    permutations = network.get_submodule(BLOCKS[theirs]).permutations
    assert torch.equal(permutations[prompts(size)], GOLDEN[f"perm.{theirs}.{size}"].long())


@pytest.mark.parametrize("folded", [True, False])
@pytest.mark.parametrize("theirs", BLOCKS)
def test_perturbation_equals_the_authors(network, theirs, folded):
    block = network.get_submodule(BLOCKS[theirs]).double().train(not folded)
    feature = GOLDEN[f"dgpb_in.{theirs}.64x64"].double()
    expected = GOLDEN[f"dgpb_out.{theirs}.64x64"]
    with torch.no_grad():
        found = block(feature, prompts("64x64"))
    # Input and output of the fixture are rounded to float32.
    assert (found - expected).abs().max() <= 2e-6 * max(1.0, expected.abs().max().item())


def test_a_wrong_prompt_changes_the_output(network):
    x = GOLDEN["input.64x64"]
    with torch.no_grad():
        difference = network.eval()(x, prompts("72x48")) - GOLDEN["output_f32.64x64"]
    assert difference.abs().max() > 1e-4


# --- counts and names


def test_paper_size_has_the_official_count():
    shapes = official_shapes(DFPIRConfig())
    assert len(shapes) == 590
    assert sum(shape.numel() for shape in shapes.values()) == 31_104_761
    prompt_map = sum(shape.numel() for name, shape in shapes.items() if "linear_layer" in name)
    assert prompt_map == 1_789_344


def test_paper_size_trains_all_but_the_prompt_map():
    with torch.device("meta"):
        network = DFPIR(DFPIRConfig())
    assert sum(p.numel() for p in network.parameters()) == 31_104_761 - 1_789_344 == 29_315_417


def test_stages_have_the_official_counts():
    shapes = official_shapes(DFPIRConfig())
    expected = {
        "encoder_level1": 125_116,
        "encoder_level2": 707_232,
        "encoder_level3": 2_738_112,
        "latent": 14_370_448,
        "decoder_level1": 471_484,
        "refinement": 471_484,
        "encoder_shuffle_channel1": 352_640,
        "encoder_shuffle_channel2": 516_369,
        "encoder_shuffle_channel3": 1_064_417,
        "latent_shuffle_channel": 3_044_691,
    }
    found = {
        stage: sum(s.numel() for name, s in shapes.items() if name.startswith(f"{stage}."))
        for stage in expected
    }
    assert found == expected


def test_tiny_names_and_shapes_are_the_authors():
    assert official_shapes(TINY) == {name: w.shape for name, w in official_weights().items()}
    assert len(official_shapes(TINY)) == 194


def test_keys_are_renamed_one_to_one():
    theirs = list(official_shapes(DFPIRConfig()))
    ours = [from_official(name) for name in theirs]
    assert len(set(ours)) == 590
    assert [to_official(name) for name in ours] == theirs
    assert len({row[0] for row in KEY_TABLE}) == len({row[1] for row in KEY_TABLE}) == len(KEY_TABLE)


def test_our_names_are_the_network_s():
    with torch.device("meta"):
        own = {name for name in DFPIR(DFPIRConfig()).state_dict() if not name.endswith("permutations")}
    theirs = official_shapes(DFPIRConfig())
    assert own == {from_official(name) for name in theirs if "linear_layer" not in name}
    assert from_official("encoder_level1.3.attn.qkv_dwconv.weight") == (
        "encoder.0.blocks.3.attn.qkv_depthwise.weight"
    )


def test_weights_survive_the_way_there_and_back(network):
    theirs = official_weights()
    back = {to_official(name): t for name, t in network.state_dict().items() if "permutations" not in name}
    assert back.keys() == {name for name in theirs if "linear_layer" not in name}
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in back.items())


# --- folding


def test_folded_block_equals_the_steps():
    torch.manual_seed(1)
    order = torch.stack([torch.randperm(24) for _ in range(3)])
    block = PerturbationBlock(12, 2, 2.0, 9, order).double().eval()
    x, prompt = torch.randn(3, 12, 6, 10, dtype=torch.float64), torch.tensor([2, 0, 2])
    assert (block.folded_shuffle(x, prompt) - block.shuffle(x, prompt)).abs().max() < 1e-12
    weight, bias = block.fold(prompt)
    assert weight.shape == (3, 12, 12)
    assert bias.shape == (3, 12)


def test_folded_network_equals_the_unfolded():
    network = tiny_network().double()
    x, prompt = torch.rand(2, 3, 16, 24, dtype=torch.float64), torch.tensor([3, 1])
    with torch.no_grad():
        assert (network.eval()(x, prompt) - network.train()(x, prompt)).abs().max() < 1e-12


def test_folded_network_follows_its_parameters():
    network = tiny_network().double()
    x = torch.rand(1, 3, 8, 8, dtype=torch.float64)
    with torch.no_grad():
        before = network.eval()(x, 0)
        for p in network.encoder[0].perturbation.parameters():
            p.add_(0.1)
        after = network(x, 0)
        assert (after - before).abs().max() > 1e-6
        assert (after - network.train()(x, 0)).abs().max() < 1e-12


# --- selection


@pytest.mark.parametrize(("channels", "kept"), [(48, 43), (8, 7), (16, 14), (10, 9), (1, 1)])
def test_rows_keep_nine_tenths_and_sum_to_one(channels, kept):
    torch.manual_seed(2)
    block = SelectiveCrossAttention(2 * channels, 2, keep_tenths=9)
    rows = block.attention(*torch.randn(2, 1, 2, channels, 64))
    assert torch.equal((rows > 0).sum(-1), torch.full((1, 2, channels), kept))
    assert torch.allclose(rows.sum(-1), torch.ones(1, 2, channels))


def test_selection_drops_the_smallest():
    torch.manual_seed(3)
    query, key = torch.randn(2, 1, 1, 10, 64)
    block = SelectiveCrossAttention(10, 1, keep_tenths=9)
    cosine = torch.cosine_similarity(query[0, 0, :, None], key[0, 0, None, :], dim=-1)
    assert torch.equal((block.attention(query, key)[0, 0] == 0).nonzero()[:, 1], cosine.argmin(-1))


def test_selection_is_float32_under_autocast_and_in_half_networks():
    torch.manual_seed(4)
    block = SelectiveCrossAttention(32, 2, keep_tenths=9)
    query, key = torch.randn(2, 1, 2, 16, 64).bfloat16()
    expected = block.attention(query.float(), key.float())
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(block.attention(query, key), expected)
    assert block.bfloat16().attention(query, key).dtype == torch.float32


def test_autocast_stays_close():
    network = tiny_network().eval()
    x = torch.rand(2, 3, 16, 16)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        restored = network(x, torch.tensor([0, 1]))
    with torch.no_grad():
        # On average: a channel whose score lies on the edge of the selection may come out otherwise.
        assert (restored - network(x, torch.tensor([0, 1]))).abs().mean() < 0.01


# --- prompts and sizes


def test_fresh_permutations_are_seeded_and_distinct():
    first, again, other = (tiny_network(shuffle_seed=seed).state_dict() for seed in (5, 5, 6))
    names = [name for name in first if name.endswith("permutations")]
    assert len(names) == 4
    for name in names:
        assert torch.equal(first[name], again[name])
        assert not torch.equal(first[name], other[name])
        assert torch.equal(first[name].sort(-1).values, torch.arange(first[name].shape[1]).expand(4, -1))
        assert len(first[name].unique(dim=0)) == 4


def test_ties_keep_their_order():
    scores = torch.tensor([[0.0, 1.0, 0.0, 1.0, 2.0]])
    assert sort_permutations(scores).tolist() == [[4, 1, 3, 0, 2]]


@pytest.mark.parametrize(
    "one", [2, torch.tensor(2), torch.tensor([2]), torch.tensor([2, 2], dtype=torch.int16)]
)
@pytest.mark.parametrize("folded", [True, False])
def test_one_prompt_serves_all_pictures(one, folded):
    network = tiny_network().train(not folded)
    x = torch.rand(2, 3, 16, 8)
    with torch.no_grad():
        assert torch.allclose(network(x, one), network(x, torch.tensor([2, 2])), atol=1e-6)


@pytest.mark.parametrize(
    ("shape", "prompt", "sentence"),
    [
        ((1, 3, 12, 16), 0, "multiples of 8"),
        ((1, 3, 0, 16), 0, "multiples of 8"),
        ((1, 1, 8, 8), 0, r"expected \(B, 3, H, W\)"),
        ((3, 8, 8), 0, r"expected \(B, 3, H, W\)"),
        ((1, 3, 8, 8), 4, "0 a0, 1 a1, 2 b0, 3 b1"),
        ((1, 3, 8, 8), -1, "between 0 and 3"),
        ((1, 3, 8, 8), torch.tensor([0, 1]), "2 prompts for 1 pictures"),
        ((1, 3, 8, 8), torch.tensor([0.5]), "integers"),
    ],
)
def test_what_does_not_fit_is_refused(shape, prompt, sentence):
    with pytest.raises(InputError, match=sentence):
        tiny_network()(torch.zeros(shape), prompt)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"dim": 9}, "even dim"),
        ({"num_heads": (3, 2, 4, 8)}, "divide by their heads"),
        ({"num_blocks": (1, 1, 1)}, "four numbers"),
        ({"prompts": ()}, "at least one"),
        ({"keep_tenths": 11}, "1 to 10"),
        ({"shuffle": "soft"}, "expected 'fixed'"),
        ({"shuffle": "learned", "shuffle_temperature": 0.0}, "above zero"),
        ({"shuffle_temperature": float("nan")}, "above zero"),
        ({"grid": 0}, "every pixel"),
    ],
)
def test_configs_that_make_no_network_are_refused(changes, sentence):
    with pytest.raises(InputError, match=sentence):
        dataclasses.replace(TINY, **changes)


# --- the half-resolution grid


def test_on_a_coarser_grid_the_network_starts_as_the_identity_and_restores_all_pixels():
    network, x = tiny_network(grid=2), torch.rand(2, 3, 32, 48)
    assert torch.equal(network(x, prompts("64x64")), x)
    with torch.no_grad():
        network.output.weight.add_(0.1)
    change = network(x, prompts("64x64")) - x
    assert [bool(change[..., i::2, j::2].abs().min() > 0) for i in (0, 1) for j in (0, 1)] == [True] * 4


def test_on_a_coarser_grid_the_sides_are_multiples_of_more():
    with pytest.raises(InputError, match="multiples of 16"):
        tiny_network(grid=2)(torch.zeros(1, 3, 24, 16), 0)


def test_a_residual_carries_the_feature_past_an_attention_that_says_nothing():
    x = torch.rand(1, 12, 8, 8)
    order = torch.randperm(24)[None]
    plain, residual = (PerturbationBlock(12, 2, 2.0, 9, order, residual=on).eval() for on in (False, True))
    for block in (plain, residual):
        torch.nn.init.zeros_(block.cross_attn.gain)
        torch.nn.init.zeros_(block.ffn.project_out.weight)
    assert not plain(x, torch.tensor([0])).any()
    assert torch.equal(residual(x, torch.tensor([0])), x)


# --- the learned shuffle


def blocks_of(network: DFPIR) -> list[PerturbationBlock]:
    return [module for module in network.modules() if isinstance(module, PerturbationBlock)]


def move_scores(network: DFPIR) -> None:
    """As if some optimizer steps had been taken."""
    with torch.no_grad():
        for block in blocks_of(network):
            block.prompt_scores.add_(torch.randn_like(block.prompt_scores))
    network.after_step()


def test_the_shuffle_is_fixed_unless_asked_for():
    assert DFPIRConfig().shuffle == "fixed"
    fixed, learned = tiny_network(), tiny_network(shuffle="learned")
    scores = {f"{block}.prompt_scores" for block in BLOCKS.values()}
    assert set(learned.state_dict()) - set(fixed.state_dict()) == scores
    assert not [name for name, _ in fixed.named_parameters() if "prompt" in name]


def test_a_learned_shuffle_starts_where_the_fixed_one_stays():
    fixed, learned = tiny_network(), tiny_network(shuffle="learned")
    for one, other in zip(blocks_of(fixed), blocks_of(learned), strict=True):
        assert torch.equal(one.permutations, other.permutations)
        assert torch.equal(sort_permutations(other.prompt_scores), other.permutations)


def test_a_file_from_before_the_options_means_the_fixed_shuffle_on_every_pixel():
    spec = models.get("dfpir_s")
    values = dataclasses.asdict(spec.config)
    for added in ("shuffle", "shuffle_temperature", "grid", "residual"):
        del values[added]
    assert spec.config_from(values) == dataclasses.replace(spec.config, grid=1, residual=False)
    del values["dim"]
    with pytest.raises(CheckpointMismatchError, match="lacks \\['dim'\\]"):
        spec.config_from(values)


def test_relaxed_rows_sum_to_one_and_peak_at_the_sorted_entry():
    torch.manual_seed(6)
    scores = torch.randn(3, 20, dtype=torch.float64)
    rows = relaxed_sort(scores, 0.1)
    assert torch.allclose(rows.sum(-1), torch.ones(3, 20, dtype=torch.float64))
    assert torch.equal(rows.argmax(-1), sort_permutations(scores))
    assert torch.allclose(relaxed_sort(7 * scores - 3, 0.1), rows)  # the temperature is relative
    cold = relaxed_sort(scores, 1e-4)
    assert (cold - straight_through_sort(scores, 0.1)).abs().max() < 1e-6


def test_equal_scores_have_no_gradient_but_nothing_breaks():
    scores = torch.zeros(1, 6, requires_grad=True)
    matrix = straight_through_sort(scores, 0.1)
    assert torch.equal(matrix[0], torch.eye(6))
    (matrix * torch.randn(6, 6)).sum().backward()
    assert scores.grad.isfinite().all()


def test_the_learned_forward_is_the_hard_permutation_s():
    network = tiny_network(shuffle="learned").double()
    move_scores(network)
    x, prompt = torch.rand(2, 3, 16, 24, dtype=torch.float64), torch.tensor([3, 1])
    feature = torch.randn(2, 16, 4, 6, dtype=torch.float64)
    block = network.train().encoder[1].perturbation
    with torch.no_grad():
        # Folded with the permutation matrix as with the gathered rows: the very same bits.
        learned, fixed = block.fold(prompt), block.eval().fold(prompt)
        assert all(torch.equal(*pair) for pair in zip(learned, fixed, strict=True))
        assert (
            block.train().folded_shuffle(feature, prompt) - block.shuffle(feature, prompt)
        ).abs().max() < 1e-12
        training, inference = network.train()(x, prompt), network.eval()(x, prompt)
        assert (training - inference).abs().max() < 1e-12
        assert (with_shuffle(network, "fixed").train()(x, prompt) - inference).abs().max() < 1e-12


def test_the_prompt_map_gets_a_gradient_for_the_prompts_of_the_batch():
    network = tiny_network(shuffle="learned").train()
    network(torch.rand(2, 3, 16, 16), torch.tensor([1, 3])).square().mean().backward()
    for block in blocks_of(network):
        moved = block.prompt_scores.grad.abs().sum(-1) > 0
        assert moved.tolist() == [False, True, False, True]


def test_the_gradient_is_the_relaxation_s():
    scores = torch.randn(1, 6, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(6, 6, dtype=torch.float64)
    (straight_through_sort(scores, 0.1) * weight).sum().backward()
    step = 1e-6
    for i in range(6):
        shift = step * torch.eye(6, dtype=torch.float64)[i]
        with torch.no_grad():
            ends = [(relaxed_sort(scores + sign * shift, 0.1) * weight).sum() for sign in (1, -1)]
        assert scores.grad[0, i].item() == pytest.approx(
            (ends[0] - ends[1]).item() / (2 * step), rel=1e-4, abs=1e-6
        )


def test_training_moves_the_permutations_to_planted_ones():
    """Blocks whose prompts start a few slots off planted permutations; the scores alone train."""
    torch.manual_seed(0)
    planted = torch.stack([torch.randperm(16) for _ in range(8)])
    start = sort_permutations(score_permutations(planted) + 0.15 * torch.randn(8, 16))
    block = PerturbationBlock(8, 2, 2.0, 9, start, shuffle_temperature=0.3).train()
    scores, prompt = block.prompt_scores, torch.arange(8)
    goal = torch.cat([block.expand.weight[order, :, 0, 0] for order in planted]).detach()  # (8*16, 8)
    goal = block.contract.weight[:, :, 0, 0].detach() @ goal.reshape(8, 16, 8)

    def distance() -> float:
        """Mean number of slots between a channel and its planted place."""
        return (block.permutations.argsort(-1) - planted.argsort(-1)).abs().float().mean().item()

    before, losses = distance(), []
    mean, square = torch.zeros(2, *scores.shape)  # Adam, by hand: torch's own takes seconds to import
    for step in range(1, 61):
        scores.grad = None
        loss = (block.fold(prompt)[0] - goal).square().sum()
        loss.backward()
        losses.append(loss.item())
        mean.lerp_(scores.grad, 0.1)
        square.lerp_(scores.grad**2, 0.01)
        move = mean / (1 - 0.9**step) / ((square / (1 - 0.99**step)).sqrt() + 1e-12)
        with torch.no_grad():
            scores -= 0.02 * (1 - step / 60) * move
        block.follow_scores()
    assert before > 0.5
    assert distance() < 0.75 * before
    assert losses[-1] < losses[0] / 2


def test_half_precision_files_keep_the_learned_permutations(tmp_path):
    spec = models.get("dfpir_s_learned")
    network = spec.build(spec.config)
    move_scores(network)
    Checkpoint.from_network(spec.name, network).write(tmp_path / "a.safetensors", dtype=torch.float16)
    rebuilt = Checkpoint.read(tmp_path / "a.safetensors").build()
    for one, other in zip(blocks_of(network), blocks_of(rebuilt), strict=True):
        assert torch.equal(one.permutations, other.permutations)


def test_averaged_weights_keep_the_permutations_of_the_training_network():
    network = tiny_network(shuffle="learned")
    average = torch.optim.swa_utils.AveragedModel(
        network, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.9)
    )
    for _ in range(2):
        move_scores(network)
        average.update_parameters(network)
    for one, other in zip(blocks_of(network), blocks_of(average.module), strict=True):
        assert torch.equal(one.permutations, other.permutations)


def test_a_fixed_network_becomes_learned_and_back(network):
    x = GOLDEN["input.64x64"]
    learned = with_shuffle(network.eval(), "learned")
    assert learned.config == dataclasses.replace(network.config, shuffle="learned")
    assert not learned.training
    back = with_shuffle(learned, "fixed")
    learned.after_step()  # the scores agree with the permutations they were made from
    with torch.no_grad():
        for other in (learned, back):
            assert torch.equal(other(x, prompts("64x64")), network(x, prompts("64x64")))
    assert back.state_dict().keys() == network.state_dict().keys()


def test_a_learned_config_has_the_authors_names_too():
    assert official_shapes(dataclasses.replace(TINY, shuffle="learned")) == official_shapes(TINY)

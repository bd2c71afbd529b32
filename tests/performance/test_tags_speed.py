"""How fast TAGS is, each figure as a ratio within one run. `make bench` runs this; nothing here is in the default run.

Peak memory is that of a fresh process per figure. The predecessor's public implementation took 81 s and 8.6 GB for
a forward pass at 128³ on two cores of an AVX-512/AMX machine (273 GFLOP/s in float32); since machines differ, the
matmul rate of this one is measured and printed beside every forward pass. Both codes were once timed on one machine,
see docs/methods/tags.md.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tags.config import sized
from tags.model import TAGS, Encoding
from tags.prompt_encoder import PromptTensors
from tags.stem import VolumetricStem
from tests.tags.naive_stem import naive_embed

pytestmark = [pytest.mark.bench, pytest.mark.timeout(3600)]

KIDNEY = [("kidney", "tumor")]
PREDECESSOR = {"seconds": 81.2, "peak_gb": 8.6, "matmul_gflops": 273.0}
BOUNDS = torch.tensor([[-2.0, 2.0]])
THREADS = int(os.environ.get("TAGS_BENCH_THREADS", "2"))


@pytest.fixture(scope="module")
def table() -> dict[str, object]:
    """Figures of this module; printed, and written as JSON where TAGS_BENCH_JSON points."""
    figures: dict[str, object] = {}
    yield figures
    print(f"\n{json.dumps(figures, indent=2)}")
    if path := os.environ.get("TAGS_BENCH_JSON"):
        Path(path).write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


def median_seconds(work: Callable[[], object], repeats: int = 3) -> float:
    work()
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


def matmul_gflops(dtype: torch.dtype, device: str = "cpu", rows: int = 4096) -> float:
    """Measured rate of the encoder's largest product, (rows × 768) · (768 × 3072)."""
    a, b = torch.randn(rows, 768, device=device, dtype=dtype), torch.randn(768, 3072, device=device, dtype=dtype)

    def work() -> None:
        torch.mm(a, b)
        if device != "cpu":
            torch.cuda.synchronize()

    return 2 * rows * 768 * 3072 / median_seconds(work, 10) / 1e9


def peak_gb(statement: str) -> tuple[float, float]:
    """Resident memory in GB of a fresh process before a statement, and its peak from there on.

    The kernel's own high-water mark, put back by the call of `here`: `ru_maxrss` would begin with the memory of the
    process that started this one. The statement calls `here()` where it wants the measurement to begin.
    """
    code = (
        "import torch; from tags.stem import VolumetricStem; from tags.model import TAGS;"
        "from tests.tags.naive_stem import naive_embed;"
        "from tags.config import sized; from tags.prompt_encoder import PromptTensors;"
        f"torch.set_num_threads({THREADS}); torch.set_grad_enabled(False);"
        "status = lambda key: next(int(one.split()[1]) for one in open('/proc/self/status') if one.startswith(key))\n"
        "before = []\n"
        "def here():\n"
        "    open('/proc/self/clear_refs', 'w').write('5')\n"
        "    before.append(status('VmRSS'))\n"
        f"{statement}\nprint(before[-1] / 2**20, status('VmHWM') / 2**20)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    before, after = (float(word) for word in done.stdout.split())
    return before, after


STEM = (
    "stem = VolumetricStem(768, 32, 64); image = torch.randn(1, 1, 128, 128, 128); stem.embed(image[..., :8, :8, :8])"
)


def test_stem_composed_against_naive(table):
    torch.set_num_threads(THREADS)
    stem, image = VolumetricStem(768, 32, 64).eval(), torch.randn(1, 1, 128, 128, 128)
    with torch.no_grad():
        composed, naive = stem.embed(image), naive_embed(stem, image)
        error = float((composed - naive).abs().max() / naive.abs().max())
        fast = median_seconds(lambda: stem.embed(image), 5)
        slow = median_seconds(lambda: naive_embed(stem, image), 1)
    before, after = peak_gb(f"{STEM}; here(); stem.embed(image)")
    small = max(after - before, 1e-3)
    before, after = peak_gb(f"{STEM}; here(); naive_embed(stem, image)")
    large = after - before
    table["stem"] = {
        "composed_s": fast, "naive_s": slow, "times_faster": slow / fast, "relative_error": error,
        "composed_gb": small, "naive_gb": large, "times_less_memory": large / small,
    }  # fmt: skip
    assert error < 1e-4
    assert slow / fast > 20
    # 5.1 GB against 0.13, of which 0.1 are the tokens themselves; the predecessor's own chain takes 7.6 GB
    assert large / small > 35


def vit_b(device: str = "cpu", **overrides: object) -> TAGS:
    torch.manual_seed(0)
    return TAGS(sized("vit-b", **overrides)).to(device)


def one_click(device: str = "cpu", x: float = 64.0) -> PromptTensors:
    points = torch.tensor([[[x, 64.0, 64.0]]], device=device)
    return PromptTensors.empty(1, device).with_points(points, torch.ones(1, 1, dtype=torch.long, device=device))


def test_vit_b_forward_at_128(table):
    """Seconds and peak memory of a whole forward pass, image and prompt, at the size of the predecessor's."""
    torch.set_num_threads(THREADS)
    model, image = vit_b().eval(), torch.randn(1, 1, 128, 128, 128)
    has_bf16 = torch.cpu._is_amx_tile_supported()
    figures: dict[str, float] = {}
    with torch.inference_mode():
        figures["matmul_fp32_gflops"] = matmul_gflops(torch.float32)
        figures["encode_fp32_s"] = median_seconds(lambda: model.encode(image, KIDNEY, BOUNDS), 1)
        encoding = model.encode(image, KIDNEY, BOUNDS)
        figures["decode_fp32_s"] = median_seconds(lambda: model.decode(encoding, one_click()), 3)
        if has_bf16:
            figures["matmul_bf16_gflops"] = matmul_gflops(torch.bfloat16)
            with torch.autocast("cpu", dtype=torch.bfloat16):
                figures["encode_bf16_s"] = median_seconds(lambda: model.encode(image, KIDNEY, BOUNDS), 1)
                encoding = model.encode(image, KIDNEY, BOUNDS)
                figures["decode_bf16_s"] = median_seconds(lambda: model.decode(encoding, one_click()), 3)
    _, figures["peak_gb"] = peak_gb(
        "here()\nmodel = TAGS(sized('vit-b')).eval(); b = torch.tensor([[-2.0, 2.0]])\n"
        "with torch.inference_mode():\n"
        "    model(torch.randn(1, 1, 128, 128, 128), [('kidney', 'tumor')], b, PromptTensors.empty(1))"
    )
    whole = figures["encode_fp32_s"] + figures["decode_fp32_s"]
    figures["second_click_share"] = figures["decode_fp32_s"] / whole
    scaled = PREDECESSOR["seconds"] * PREDECESSOR["matmul_gflops"] / figures["matmul_fp32_gflops"]
    figures["times_faster_than_predecessor_scaled_by_matmul"] = scaled / whole
    figures["share_of_predecessor_memory"] = figures["peak_gb"] / PREDECESSOR["peak_gb"]
    table["vit_b_128"] = figures
    assert figures["second_click_share"] < 0.1
    assert figures["share_of_predecessor_memory"] < 0.345  # a third; the allocator moves it by a hundredth
    # In float32 the blocks' matrix products alone are 5.6 TFLOP: no arrangement of them is three times as fast.
    assert figures["times_faster_than_predecessor_scaled_by_matmul"] > 1.7


def test_tiny_step_and_click(table):
    """What the embedded suite lives on: a training step of batch 2 and a click, on one thread."""
    from benchmarks.contestants import Batch, Target
    from tags.method import tags_tiny

    torch.set_num_threads(1)
    target = Target("t", "kidney", "tumor", (1,))
    segmenter = tags_tiny.build()
    side = segmenter.config.patch
    image, label = torch.randn(2, 1, side, side, side), torch.zeros(2, 1, side, side, side)
    label[..., 8:16, 8:16, 8:16] = 1
    optimiser = torch.optim.AdamW(segmenter.trainable_parameters())

    def step() -> None:
        batch = Batch(image, label, [target, target], torch.Generator().manual_seed(0), 0.0)
        segmenter.loss(batch)[0].backward()
        optimiser.step()
        optimiser.zero_grad()

    figures = {"training_step_s": median_seconds(step, 10)}
    with torch.inference_mode():
        encode = lambda: segmenter.module.encode(image[:1], KIDNEY, BOUNDS)  # noqa: E731
        encoding = encode()
        figures["encode_s"] = median_seconds(encode, 10)
        figures["decode_s"] = median_seconds(lambda: segmenter.module.decode(encoding, one_click(x=10.0)), 10)
    table["tiny"] = figures
    assert figures["training_step_s"] < 0.5
    assert figures["encode_s"] + figures["decode_s"] < 0.3


# GPU. Counted FLOP are those of matrix products, convolutions and attention, by torch's own counter.

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


def counted_flop(work: Callable[[], object]) -> float:
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        work()
    return float(counter.get_total_flops())


def gpu_seconds(work: Callable[[], object], repeats: int = 5) -> float:
    def synchronised() -> None:
        work()
        torch.cuda.synchronize()

    return median_seconds(synchronised, repeats)


def training_step(model: torch.nn.Module, image: torch.Tensor, optimiser: torch.optim.Optimizer) -> None:
    batch, device = len(image), image.device
    prompts = PromptTensors.empty(batch, device).with_points(
        torch.full((batch, 4, 3), 60.0, device=device), torch.ones(batch, 4, dtype=torch.long, device=device)
    )
    with torch.autocast("cuda", dtype=torch.bfloat16):
        logits = model(image, KIDNEY * batch, BOUNDS.to(device).expand(batch, 2), prompts)
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logits.float(), torch.zeros_like(image))
    loss.backward()
    optimiser.step()
    optimiser.zero_grad(set_to_none=True)


@needs_gpu
@pytest.mark.parametrize("checkpointing", [False, True])
def test_gpu_training_step_of_batch_two(table, checkpointing):
    model = vit_b("cuda", checkpointing=checkpointing).train()
    optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], fused=True)
    image = torch.randn(2, 1, 128, 128, 128, device="cuda")
    flop = counted_flop(lambda: training_step(model, image, optimiser))
    torch.cuda.reset_peak_memory_stats()
    seconds = gpu_seconds(lambda: training_step(model, image, optimiser))
    rate = matmul_gflops(torch.bfloat16, "cuda", 2 * 32768) * 1e9
    figures = {
        "seconds": seconds, "tflop": flop / 1e12, "share_of_matmul_rate": flop / seconds / rate,
        "peak_gb": torch.cuda.max_memory_allocated() / 2**30,
    }  # fmt: skip
    table[f"gpu_training_step_checkpointing_{checkpointing}"] = figures
    if checkpointing:
        assert figures["peak_gb"] < 24


@needs_gpu
def test_gpu_inference_and_compile(table):
    model, image = vit_b("cuda").eval(), torch.randn(1, 1, 128, 128, 128, device="cuda")
    ends = BOUNDS.cuda()

    def encode() -> Encoding:
        return model.encode(image, KIDNEY, ends)

    with torch.no_grad(), torch.autocast("cuda", dtype=torch.bfloat16):
        flop = counted_flop(encode)
        encoding = encode()
        figures = {
            "encode_s": gpu_seconds(encode),
            "decode_s": gpu_seconds(lambda: model.decode(encoding, one_click("cuda"))),
            "encode_tflop": flop / 1e12,
        }
        rate = matmul_gflops(torch.bfloat16, "cuda", 32768) * 1e9
        figures["share_of_matmul_rate"] = flop / figures["encode_s"] / rate
        for block in model.encoder.blocks:
            block.compile()
        figures["encode_compiled_s"] = gpu_seconds(encode)
        figures["compile_gain"] = figures["encode_s"] / figures["encode_compiled_s"]
        figures["share_of_matmul_rate_compiled"] = flop / figures["encode_compiled_s"] / rate
    figures["peak_gb"] = torch.cuda.max_memory_allocated() / 2**30
    table["gpu_inference"] = figures
    assert figures["decode_s"] < 0.1 * (figures["encode_s"] + figures["decode_s"]) or figures["decode_s"] < 0.05

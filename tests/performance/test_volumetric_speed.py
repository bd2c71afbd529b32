"""SegVol, the Universal Model and 3DSAM-adapter against the released code's own speed.

CPU seconds of the process are compared, not the clock. Those of the released code were taken on one machine (two
threads, float32, unmodified code); the allowance is scaled by a matrix product measured here against the same product
there. Every figure is printed (`pytest -m bench -s`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest
import torch

from baselines.sam3d_adapter.encoder import SIZES as ADAPTER
from baselines.sam3d_adapter.network import Sam3dAdapter
from baselines.segvol.network import SIZES as SEGVOL
from baselines.segvol.network import ImageEncoder
from baselines.universal.network import SIZES as UNIVERSAL
from baselines.universal.network import UniversalModel

pytestmark = [pytest.mark.bench, pytest.mark.slow]

THREADS = 2
REFERENCE_RATE = 137e9  # operations per CPU second of `rate` on the machine of the timings below
OFFICIAL_SECONDS = {
    "SegVol encoder": 7.5,
    "Universal swinunetr, 32 classes": 17.2,
    "Universal unet, 32 classes": 21.6,
    "3DSAM-adapter, one point": 150.0,
    "3DSAM-adapter, another point on the same crop": 10.2,
}


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(THREADS)
    yield
    torch.set_num_threads(before)


def rate() -> float:
    """Operations per CPU second of a float32 matrix product of a transformer's size."""
    a, b = torch.randn(4096, 768), torch.randn(768, 3072)
    a @ b
    started = time.process_time()
    for _ in range(5):
        a @ b
    return 5 * 2 * 4096 * 768 * 3072 / (time.process_time() - started)


def compare(name: str, run: Callable[[], object], repeats: int = 2) -> None:
    """Fails if the best run is slower than the released code's scaled CPU seconds."""
    speed, seconds = [rate()], []
    with torch.inference_mode():
        for _ in range(repeats):
            started = time.process_time()
            run()
            seconds.append(time.process_time() - started)
            speed.append(rate())
    allowed = OFFICIAL_SECONDS[name] * REFERENCE_RATE / max(speed)
    print(
        f"\n{name}: {min(seconds):.2f} CPU-s; released code {OFFICIAL_SECONDS[name]} CPU-s at "
        f"{REFERENCE_RATE / 1e9:.0f} GFLOP per CPU-s, here {max(speed) / 1e9:.0f}, so {allowed:.2f} CPU-s: "
        f"{allowed / min(seconds):.2f} times as fast"
    )
    assert min(seconds) <= allowed


def test_segvol_encoder() -> None:
    encoder = ImageEncoder(SEGVOL["official"]).eval()
    image = torch.rand(1, 1, *SEGVOL["official"].image)
    compare("SegVol encoder", lambda: encoder(image), repeats=3)


@pytest.mark.parametrize("backbone", ["swinunetr", "unet"])
def test_universal(backbone: str) -> None:
    network = UniversalModel(backbone, UNIVERSAL["official"]).eval()  # type: ignore[arg-type]
    window = torch.rand(1, 1, 96, 96, 96)
    compare(f"Universal {backbone}, 32 classes", lambda: network(window))


def test_3dsam_adapter() -> None:
    network = Sam3dAdapter(ADAPTER["official"]).eval()
    image, point = torch.randn(1, 1, 128, 128, 128), torch.tensor([[[40, 71, 97]]])
    encoded: list[torch.Tensor] = []

    def whole() -> None:
        encoded[:] = network.encode(image)
        network.decode(encoded, point)

    compare("3DSAM-adapter, one point", whole, repeats=1)
    compare("3DSAM-adapter, another point on the same crop", lambda: network.decode(encoded, point))

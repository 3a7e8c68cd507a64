"""What the machine could do: matrix products at a model's own shapes, and weights read for one row.

A product's rate is taken in its fastest block, since a ceiling is what is left undisturbed. Attention's small products,
the normalisations and the optimizer are not in it: a training step can come near its ceiling and not reach it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.benchmark import Timer

from minigpt.benchmarks.paired_blocks import Track
from minigpt.model import GPT
from minigpt.training.config import RunConfig

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
# Far larger than caches are.
READ_BYTES = 1 << 27
_READ_COLUMNS = 4096
_LARGE = {"cpu": 2048, "cuda": 8192}
_SHORT, _LONG = 0.05, 0.2  # seconds


@dataclass(frozen=True)
class Product:
    """One weight's product in a forward pass, (rows, inner) × (inner, columns), which occurs `count` times."""

    name: str
    rows: int
    inner: int
    columns: int
    count: int

    @property
    def flops(self) -> int:
        """Of one such product; each of the two of the backward pass costs as much."""
        return 2 * self.rows * self.inner * self.columns


@dataclass(frozen=True)
class ProductRates:
    """FLOP/s of a product forward, and of those that give the gradients of its input and of its weight."""

    product: Product
    forward: float
    grad_input: float
    grad_weight: float


def measure_ceilings(model: GPT, config: RunConfig, native: str, track: Track) -> dict[str, Any]:
    """Measure both precisions, except a bfloat16 that is only emulated here and not asked for: that one is None."""
    device = torch.device(config.device)
    products = products_of(model, config.batch_size * config.block_size)
    found: dict[str, Any] = {"products": [{**asdict(product), "flops": product.flops} for product in products]}
    found["large_side"] = large_product(device)
    wanted = [dtype for dtype in DTYPES if dtype in ("float32", native, config.dtype)]
    for index in track(range(len(wanted)), f"products {config.preset}"):
        found[wanted[index]] = _measure_precision(products, wanted[index], device)
    return dict.fromkeys(DTYPES) | found


def _measure_precision(products: Sequence[Product], dtype: str, device: torch.device) -> dict[str, Any]:
    rates = [product_rates(product, dtype, device) for product in products]
    return {
        "products": [{key: value for key, value in asdict(entry).items() if key != "product"} for entry in rates],
        "ceiling": ceiling(rates),
        "large": large_product_rate(dtype, device),
        "read_bandwidth": read_bandwidth(dtype, device),
    }


def products_of(model: GPT, rows: int) -> list[Product]:
    """The products of all weights for `rows` tokens; equal ones of several layers are one entry."""
    layers = [(name, module) for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    counts = Counter((_short(name), layer.in_features, layer.out_features) for name, layer in layers)
    return [Product(name, rows, inner, columns, count) for (name, inner, columns), count in counts.items()]


def _short(name: str) -> str:
    """`attn.w_qkv` for `blocks.3.attn.w_qkv`."""
    return name.split(".", 2)[-1] if name.startswith("blocks.") else name


def product_rates(product: Product, dtype: str, device: torch.device) -> ProductRates:
    """Measure a product's three forms."""
    inputs = torch.randn(product.rows, product.inner, dtype=DTYPES[dtype], device=device)
    weight = torch.randn(product.columns, product.inner, dtype=DTYPES[dtype], device=device)
    gradient = torch.randn(product.rows, product.columns, dtype=DTYPES[dtype], device=device)
    return ProductRates(
        product,
        forward=product.flops / least_seconds(lambda: F.linear(inputs, weight), _SHORT),
        grad_input=product.flops / least_seconds(lambda: gradient @ weight, _SHORT),
        grad_weight=product.flops / least_seconds(lambda: gradient.t() @ inputs, _SHORT),
    )


def ceiling(rates: Sequence[ProductRates]) -> float:
    """FLOP/s of all products of a training step together: all operations over the time they take."""
    operations = sum(3 * entry.product.flops * entry.product.count for entry in rates)
    return operations / sum(_seconds(entry) for entry in rates)


def _seconds(entry: ProductRates) -> float:
    each = sum(1 / rate for rate in (entry.forward, entry.grad_input, entry.grad_weight))
    return entry.product.flops * entry.product.count * each


def large_product(device: torch.device) -> int:
    """The side of a square product that is large for this kind of device."""
    return _LARGE.get(device.type, _LARGE["cpu"])


def large_product_rate(dtype: str, device: torch.device) -> float:
    """FLOP/s of a large square product: the divisor of MFU."""
    side = large_product(device)
    left, right = (torch.randn(side, side, dtype=DTYPES[dtype], device=device) for _ in range(2))
    return 2 * side**3 / least_seconds(lambda: left @ right, _LONG)


def read_bandwidth(dtype: str, device: torch.device) -> float:
    """Bytes a second at which one row meets weights that no cache holds: what decoding can reach at best."""
    columns = READ_BYTES // _READ_COLUMNS // DTYPES[dtype].itemsize
    weight = torch.ones(columns, _READ_COLUMNS, dtype=DTYPES[dtype], device=device)
    row = torch.ones(1, _READ_COLUMNS, dtype=DTYPES[dtype], device=device)
    return READ_BYTES / least_seconds(lambda: F.linear(row, weight), _LONG)


@torch.no_grad()
def least_seconds(work: Callable[[], Tensor], seconds: float) -> float:
    """Time of one call in the fastest of several blocks, after a first one that does not count."""
    work()
    timer = Timer("work()", globals={"work": work}, num_threads=torch.get_num_threads())
    return min(timer.blocked_autorange(min_run_time=seconds).times)

"""A decorated image analysis: ordinary functions, one line above each, and images travel by reference.

Three steps find and measure the coins in a photograph, in other processes. None of them knows of stores or proxies;
what goes through the pool is a few hundred bytes for each image. Draws image_analysis.png.

python examples/image_analysis.py
"""

from __future__ import annotations

import pickle
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import matplotlib as mpl
import numpy as np
from scipy import ndimage
from skimage import data, filters, measure, morphology, segmentation

from proxyfab import Store
from proxyfab.patterns import proxied

store = Store(name="image-analysis")  # by name, so that all processes mean the same place


@proxied(store, above="10 KB")
def smooth(image: np.ndarray) -> np.ndarray:
    return filters.gaussian(image, 1.5, preserve_range=True)


@proxied(store, above="10 KB")
def label(image: np.ndarray) -> np.ndarray:
    edges = filters.sobel(image)
    seeds = np.zeros(image.shape, int)
    seeds[image < 40], seeds[image > 150] = 1, 2
    coins = ndimage.binary_fill_holes(segmentation.watershed(edges, seeds) == 2)
    return measure.label(morphology.opening(coins, morphology.disk(5)))


@proxied(store, above="10 KB", lazy=False)  # a real array, for code that looks closely at what it is given
def areas(labels: np.ndarray) -> list[float]:
    assert type(labels) is np.ndarray
    return [float(region.area) for region in measure.regionprops(labels) if region.area > 500]


def draw(image: np.ndarray, labels: np.ndarray, sizes: list[float]) -> None:
    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(9, 2.9), layout="constrained", width_ratios=(4, 4, 3))
    left.imshow(image, cmap="gray")
    middle.imshow(segmentation.mark_boundaries(image / 255, np.asarray(labels), color=(0.06, 0.6, 0.55), mode="thick"))
    right.hist(sizes, bins=10, color="#0f766e")
    right.set(xlabel="area in pixels", title=f"{len(sizes)} coins")
    right.spines[["top", "right"]].set_visible(False)
    left.set_title("image")
    middle.set_title("outlines")
    for axes in (left, middle):
        axes.axis("off")
    figure.savefig("image_analysis.png", dpi=90)


def main() -> None:
    image = data.coins()
    with ProcessPoolExecutor(2, get_context("spawn")) as pool:
        smoothed = pool.submit(smooth, store.proxy(image)).result()
        labels = pool.submit(label, smoothed).result()
        sizes = pool.submit(areas, labels).result()
    print(f"{len(sizes)} coins in an image of {image.nbytes:,} bytes; each step was sent {len(pickle.dumps(labels))}")
    draw(image, labels, sizes)
    del smoothed, labels
    print(f"image_analysis.png; {store.clear()} objects were in the store")
    store.close()


if __name__ == "__main__":
    main()

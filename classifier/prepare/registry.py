"""The datasets that ``download`` knows: file names, published digests, class names, licenses.

All three share the IDX format and the four file names. Sources of the digests of the published ``.gz`` files: the
Fashion-MNIST README and torchvision's ``datasets/mnist.py``. A mirror may have recompressed the files, so a matching
digest of the content, where known, is accepted too. Sources of the licenses: the LICENSE file of the Fashion-MNIST
repository; MNIST's archived page (its images are derived from NIST's Special Databases 1 and 3); KMNIST's page.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class RawFile:
    """One of the four files, with the MD5 digests of the published .gz and, if known, of its content."""

    name: str
    gzip_md5: str
    content_md5: str | None


@dataclass(frozen=True)
class DatasetSpec:
    """A dataset: its files, the names of classes 0 to 9, and the entries of ``data/dataset_info.json``."""

    files: tuple[RawFile, ...]
    class_names: tuple[str, ...]
    info: dict[str, str]


RAW_FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


def _entry(gzip: str, content: str, class_names: str, **info: str) -> DatasetSpec:
    contents: list[str | None] = [*content.split()] or [None] * len(RAW_FILES)
    raw = (RawFile(*row) for row in zip(RAW_FILES, gzip.split(), contents, strict=True))
    return DatasetSpec(tuple(raw), tuple(class_names.split(", ")), info)


DATASETS = {
    "fashion-mnist": _entry(
        "8d4fb7e6c68d591d4c3dfef9ec88bf0d 25c81989df183df01b3e8a0aad5dffbe"
        " bef4ecab320f06d8554ea6380940ec79 bb300cfdad3c16e7a12a480ee83cd310",
        "f4a8712d7a061bf5bd6d2ca38dc4d50a 9018921c3c673c538a1fc5bad174d6f9"
        " 8181f5470baa50b63fa0f6fddb340f0a 15d484375f8d13e6eb1aabb0c3f46965",
        "T-shirt/top, Trouser, Pullover, Dress, Coat, Sandal, Shirt, Sneaker, Bag, Ankle boot",
        name="Fashion-MNIST",
        license="MIT",
        attribution="Zalando SE, 2017",
        homepage="github.com/zalandoresearch/fashion-mnist",
    ),
    "mnist": _entry(
        "f68b3c2dcbeaaa9fbdd348bbdeb94873 d53e105ee54ea40749a09fcbcd1e9432"
        " 9fb629c4189551a2d022fa330f9573f3 ec29112dd5afa0611ce80d1b7f02629c",
        "6bbc9ace898e44ae57da46a324031adb a25bea736e30d166cdddb491f175f624"
        " 2646ac647ad5339dbf082846283269ea 27ae3e4e09519cfbb04c329615203637",
        "0, 1, 2, 3, 4, 5, 6, 7, 8, 9",
        name="MNIST",
        license="CC-BY-SA-3.0",
        attribution="Yann LeCun and Corinna Cortes",
        homepage="yann.lecun.com/exdb/mnist",
    ),
    "kmnist": _entry(
        "bdb82020997e1d708af4cf47b453dcf7 e144d726b3acfaa3e44228e80efcd344"
        " 5c965bf0a639b31b8f53240b1b52f4d7 7320c461ea6c1c855c0b718fb2a4b134",
        "",  # only the .gz files have published digests
        "o, ki, su, tsu, na, ha, ma, ya, re, wo",
        name="KMNIST",
        license="CC-BY-SA-4.0",
        attribution="ROIS-DS Center for Open Data in the Humanities",
        homepage="codh.rois.ac.jp/kmnist",
    ),
}

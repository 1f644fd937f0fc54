"""The data sets of the paper in their published layouts, and a few more. A name -> categories of labelled pictures."""

from o2n.data.datasets.aitex import AITEX
from o2n.data.datasets.base import DataSet
from o2n.data.datasets.cifar10 import CIFAR10
from o2n.data.datasets.elpv import ELPV
from o2n.data.datasets.kolektor import KOLEKTOR
from o2n.data.datasets.magnetic_tile import MAGNETIC_TILE
from o2n.data.datasets.medical import BRAIN_MRI, HEAD_CT, OCT2017, RESC
from o2n.data.datasets.mnist import MNIST, MNIST_T10K
from o2n.data.datasets.mvtec import MVTEC, load_folder
from o2n.data.datasets.procedural import FAMILIES
from o2n.data.datasets.visa import VISA

DATASETS = {
    dataset.name: dataset
    for dataset in (
        MVTEC,
        VISA,
        KOLEKTOR,
        AITEX,
        ELPV,
        MAGNETIC_TILE,
        OCT2017,
        BRAIN_MRI,
        HEAD_CT,
        RESC,
        MNIST,
        MNIST_T10K,
        CIFAR10,
        FAMILIES,
    )
}


def data_set(name: str) -> DataSet:
    """The data set of that name; with any other name, a folder in MVTec layout."""
    return DATASETS.get(name) or DataSet(name, name, "industrial", load_folder)

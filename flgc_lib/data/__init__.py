"""Datasets: kept in memory (`dataset`), read from files and servers (`sources`), or made by code (`shapes`)."""

from flgc_lib.data.dataset import MEAN, STD, Batches, Dataset, load, prepare, synthetic

__all__ = ["MEAN", "STD", "Batches", "Dataset", "load", "prepare", "synthetic"]

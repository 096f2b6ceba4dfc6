"""Trainings of these tests run on one thread: the machine has others to serve."""

import torch

torch.set_num_threads(1)
